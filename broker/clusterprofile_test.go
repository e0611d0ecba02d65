package broker

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// bound is a TargetCluster that names the ClusterProfile of the same name.
var bound = types.NamespacedName{Namespace: "fleet", Name: "bound"}

func (f fakeIssuer) TargetCluster(_ context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error) {
	cluster := &v1alpha1.TargetCluster{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}
	if name == bound {
		cluster.Spec.ClusterProfile = &v1alpha1.ObjectReference{Namespace: "inventory", Name: name.Name}
	}
	return cluster, nil
}

func (f fakeIssuer) ClusterProfile(ctx context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error) {
	return f.TargetCluster(ctx, name)
}

func (f fakeIssuer) IssueFor(ctx context.Context, cluster *v1alpha1.TargetCluster, req providers.Request) (issuer.Issued, error) {
	return f(ctx, client.ObjectKeyFromObject(cluster), req)
}

func (f fakeIssuer) Refused(issuer.Issued) {}

// mayUse allows app/web to use these objects: resource.group/namespace/name.
func mayUse(allowed ...string) fakeAccess {
	return func(a authorizer.Attributes) (authorizer.Decision, string, error) {
		asked := a.GetResource() + "." + a.GetAPIGroup() + "/" + a.GetNamespace() + "/" + a.GetName()
		if a.GetUser().GetName() == "system:serviceaccount:app:web" && a.GetVerb() == "use" && slices.Contains(allowed, asked) {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	}
}

func TestClusterProfiles(t *testing.T) {
	const (
		theTarget  = "targetclusters.keyferry.dev/fleet/bound"
		theProfile = "clusterprofiles.multicluster.x-k8s.io/inventory/bound"
	)
	for name, test := range map[string]struct {
		path    string
		access  fakeAccess
		code    int
		message string
		audit   string
	}{
		"by itself": {wire.ClusterProfilePath("inventory", "bound"), mayUse(theProfile), http.StatusOK, "",
			`"clusterProfile":"inventory/bound","latency"`},
		"by itself, not allowed": {wire.ClusterProfilePath("inventory", "bound"), mayUse(theTarget), http.StatusForbidden,
			`ServiceAccount app/web may not use ClusterProfile inventory/bound: grant the verb "use" on clusterprofiles.multicluster.x-k8s.io "bound" in namespace inventory: keyferry grant --cluster-profile inventory/bound app/web`,
			`"clusterProfile":"inventory/bound"`},
		"by a TargetCluster": {wire.TargetClusterPath("fleet", "bound"), mayUse(theTarget, theProfile), http.StatusOK, "",
			`"targetCluster":"fleet/bound","clusterProfile":"inventory/bound","latency"`},
		"by a TargetCluster, not the profile": {wire.TargetClusterPath("fleet", "bound"), mayUse(theTarget), http.StatusForbidden,
			"may not use ClusterProfile inventory/bound", `"targetCluster":"fleet/bound","clusterProfile":"inventory/bound"`},
		"by a TargetCluster, only the profile": {wire.TargetClusterPath("fleet", "bound"), mayUse(theProfile), http.StatusForbidden,
			"may not use TargetCluster fleet/bound", `"targetCluster":"fleet/bound","latency"`},
		"no name": {wire.ClusterProfilePath("inventory", "Bound"), mayUse(), http.StatusBadRequest, `names the ClusterProfile "Bound"`, `"clusterProfile":"inventory/Bound"`},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			b := newBench(t, test.access, func(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error) {
				asked = true
				return issued(), nil
			})
			r := request("{}")
			r.URL.Path = test.path
			w := b.do(r)
			if w.Code != test.code || !strings.Contains(said(t, w), test.message) || asked != (test.code == http.StatusOK) {
				t.Errorf("code %d (%s), issued: %v", w.Code, w.Body, asked)
			}
			if !strings.Contains(b.audit.String(), test.audit) {
				t.Errorf("audit is %s, want it to hold %s", b.audit.String(), test.audit)
			}
		})
	}
}

func said(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var status wire.Error
	if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil {
		t.Fatal(err)
	}
	return status.Message
}

// TestPluginInPod checks that a Pod with a plugin receives only the cluster's endpoint and CA, and
// the plugin's configuration.
func TestPluginInPod(t *testing.T) {
	replica := 0
	b := newBench(t, webMayUse, func(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error) {
		answer := issued()
		replica++ // each has looked at another time
		answer.IssuedAt, answer.RefreshAt = answer.IssuedAt.Add(time.Duration(replica)*time.Second), answer.RefreshAt.Add(time.Duration(replica)*time.Second)
		answer.Credential = providers.Credential{Endpoint: answer.Endpoint, NotAfter: answer.NotAfter}
		answer.InPod = &resolve.InPod{Config: json.RawMessage(`{"id":"c-1"}`)}
		return answer, nil
	})
	w := b.do(request("{}"))
	var answer wire.ExecCredential
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	config := answer.Spec.Cluster.Config
	if !config.PluginInPod || string(config.PluginConfig) != `{"id":"c-1"}` || answer.Status != (wire.Status{}) || answer.Spec.Cluster.Server == "" {
		t.Errorf("the answer is %s", w.Body)
	}
	if audit := b.audit.String(); !strings.Contains(audit, "credential issued by the Pod's plugin") || strings.Contains(audit, "notAfter") {
		t.Errorf("audit is %s", audit)
	}
	r := request("{}")
	r.Header.Set("If-None-Match", w.Header().Get("ETag"))
	if again := b.do(r); again.Code != http.StatusNotModified {
		t.Errorf("the same answer has code %d", again.Code)
	}
}
