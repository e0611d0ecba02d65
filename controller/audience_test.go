package controller

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer/resolve"
)

// federate makes a spec one of a target that accepts tokens of this cluster.
func federate(host string, ca []byte, audience string) v1alpha1.TargetClusterSpec {
	return v1alpha1.TargetClusterSpec{
		Endpoint: &v1alpha1.Endpoint{Server: "https://" + strings.TrimPrefix(host, "https://"), CertificateAuthorityData: ca},
		Access:   v1alpha1.Access{Type: v1alpha1.AccessNone},
		Issue:    v1alpha1.Issue{Type: v1alpha1.IssueFederation, Federation: &v1alpha1.FederationIssue{Audience: audience}},
	}
}

func TestFederated(t *testing.T) {
	tests := map[string]func(t *testing.T) (host string, ca []byte){
		"an API server that tells its version": func(*testing.T) (string, []byte) { return server.Host, server.CAData },
		"one that talks to nobody unknown": func(t *testing.T) (string, []byte) {
			s := impostor(t, http.StatusUnauthorized, "")
			return s.URL, certificate(s)
		},
	}
	for name, at := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rest.ImpersonationConfig{})
			host, ca := at(t)
			w.cluster.Spec = federate(host, ca, t.Name())
			w.update(w.cluster)
			w.look()
			w.condition(v1alpha1.ConditionResolved, metav1.ConditionTrue, "Resolved")
			w.condition(v1alpha1.ConditionReachable, metav1.ConditionTrue, "Answers")
			w.condition(v1alpha1.ConditionIssuing, metav1.ConditionTrue, "Federated")
			w.condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")
			before := w.writes.Load()
			w.look()
			if writes := w.writes.Load() - before; writes > 0 {
				t.Errorf("%d writes while nothing changes", writes)
			}
		})
	}
}

// What the broker said of another issue type does not stay, and what is said of federation does
// not, either.
func TestBecomesFederatedAndBack(t *testing.T) {
	w := newWorld(t, rest.ImpersonationConfig{})
	w.look()
	w.brokerSays(metav1.ConditionFalse, "Refused", w.cluster.Generation)
	w.look()
	before := w.cluster.Spec
	w.cluster.Spec = federate(server.Host, server.CAData, t.Name())
	w.update(w.cluster)
	w.look()
	w.condition(v1alpha1.ConditionIssuing, metav1.ConditionTrue, "Federated")
	w.condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready")

	w.cluster.Spec = before
	w.update(w.cluster)
	w.look()
	w.condition(v1alpha1.ConditionIssuing, metav1.ConditionUnknown, "NotUsed")
}

func TestAudienceIsOfOneTarget(t *testing.T) {
	first, second := newWorld(t, rest.ImpersonationConfig{}), newWorld(t, rest.ImpersonationConfig{})
	first.cluster.Spec = federate(server.Host, server.CAData, t.Name())
	first.update(first.cluster)
	first.look()
	first.condition(v1alpha1.ConditionResolved, metav1.ConditionTrue, "Resolved")
	first.told()

	other := httptest.NewTLSServer(nil)
	t.Cleanup(other.Close)
	second.cluster.Spec = federate(other.URL, certificate(other), t.Name())
	second.update(second.cluster)
	second.look()
	message := second.condition(v1alpha1.ConditionResolved, metav1.ConditionFalse, resolve.ReasonAudienceTaken)
	if strings.Contains(message, first.cluster.Namespace) || !strings.Contains(message, "a TargetCluster of another namespace") ||
		!strings.Contains(message, "choose another audience") {
		t.Errorf("message %q", message)
	}
	second.wantEvents("Warning " + resolve.ReasonAudienceTaken)
	first.look()
	first.condition(v1alpha1.ConditionResolved, metav1.ConditionTrue, "Resolved")
	first.wantEvents()

	second.cluster.Spec.Endpoint = first.cluster.Spec.Endpoint
	second.update(second.cluster)
	second.look()
	second.condition(v1alpha1.ConditionResolved, metav1.ConditionTrue, "Resolved")
}

func TestAudienceHolder(t *testing.T) {
	const here, there = "https://here.example.com:443", "https://there.example.com:443"
	cluster := func(uid types.UID, server, audience string, age time.Duration, resolves bool) v1alpha1.TargetCluster {
		c := v1alpha1.TargetCluster{
			ObjectMeta: metav1.ObjectMeta{UID: uid, Generation: 1, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))},
			Spec:       federate(server, nil, audience),
		}
		if resolves {
			c.Status.ObservedGeneration = 1
			c.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionTrue}}
		}
		return c
	}
	// profiled has its server in a ClusterProfile, and only another field in the spec.
	profiled := func(status string) v1alpha1.TargetCluster {
		c := cluster("b", "", "x", time.Hour, true)
		c.Spec.Endpoint, c.Status.Endpoint = &v1alpha1.Endpoint{TLSServerName: "api"}, status
		return c
	}
	for name, test := range map[string]struct {
		self, other v1alpha1.TargetCluster
		taken       bool
	}{
		"its profile, the same":        {cluster("a", here, "x", 0, false), profiled(here), false},
		"its profile, another":         {cluster("a", here, "x", 0, false), profiled(there), true},
		"another audience":             {cluster("a", here, "x", 0, false), cluster("b", there, "y", time.Hour, true), false},
		"written in another way":       {cluster("a", here, "https://x", 0, false), cluster("b", there, "HTTPS:%2f%2fX/", time.Hour, true), true},
		"the same endpoint":            {cluster("a", here, "x", 0, false), cluster("b", "https://Here.example.com", "x", time.Hour, true), false},
		"the other resolves":           {cluster("a", here, "x", time.Hour, false), cluster("b", there, "x", 0, true), true},
		"it resolves, the other not":   {cluster("a", here, "x", 0, true), cluster("b", there, "x", time.Hour, false), false},
		"neither does, other is older": {cluster("a", here, "x", 0, false), cluster("b", there, "x", time.Hour, false), true},
		"neither does, it is older":    {cluster("a", here, "x", time.Hour, false), cluster("b", there, "x", 0, false), false},
		"both do, other is older":      {cluster("a", here, "x", 0, true), cluster("b", there, "x", time.Hour, true), true},
		"same age":                     {cluster("a", here, "x", 0, true), cluster("b", there, "x", 0, true), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := audienceHolder(&test.self, here, []v1alpha1.TargetCluster{test.self, test.other}); (got != nil) != test.taken {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestAudienceOfAnExchange: a target that is shown tokens for the provider of another one could
// exchange them there.
func TestAudienceOfAnExchange(t *testing.T) {
	exchange, w := newWorld(t, rest.ImpersonationConfig{}), newWorld(t, rest.ImpersonationConfig{})
	const audience = "https://sts.example.com/audience-of-an-exchange"
	status := v1alpha1.TargetClusterStatus{SubjectTokenAudience: audience}
	if err := exchange.it.apply(t.Context(), exchange.cluster, "", status, client.FieldOwner("test"), client.ForceOwnership); err != nil {
		t.Fatal(err)
	}
	for written, reason := range map[string]string{
		audience: resolve.ReasonAudienceTaken, strings.ToUpper(audience) + "/": resolve.ReasonAudienceTaken, audience + "-2": "Resolved",
	} {
		w.cluster.Spec = federate(server.Host, server.CAData, written)
		w.update(w.cluster)
		w.look()
		want := metav1.ConditionFalse
		if reason == "Resolved" {
			want = metav1.ConditionTrue
		}
		w.condition(v1alpha1.ConditionResolved, want, reason)
	}
}
