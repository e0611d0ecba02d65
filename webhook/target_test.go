package webhook

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/use"
)

// TestCacheLags checks that a Pod is not denied because the cache lags.
func TestCacheLags(t *testing.T) {
	stale := tenant1(ready())
	stale.Generation = 2
	unresolved := metav1.Condition{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionFalse, Reason: "SecretNotFound"}
	proxied := ready()
	proxied.Delivery = v1alpha1.DeliveryProxy
	for name, cached := range map[string]shelf{
		"has it not":               {},
		"has no status":            {"fleet/tenant-1": tenant1(v1alpha1.TargetClusterStatus{})},
		"has a status from before": {"fleet/tenant-1": stale},
		"has it unresolved":        {"fleet/tenant-1": tenant1(ready(unresolved))},
		"has another delivery":     {"fleet/tenant-1": tenant1(proxied)},
	} {
		t.Run(name, func(t *testing.T) {
			h := testHandler(t, func(cfg *Config) { cfg.Cached = cached })
			if got := ask(t, h, podReview(t, pod("", annotated("cluster", "fleet/tenant-1")))); !got.Allowed || got.Patch == nil {
				t.Errorf("got %+v", got.Result)
			}
		})
	}
	t.Run("has all, and is enough", func(t *testing.T) {
		h := testHandler(t, func(cfg *Config) { cfg.Live = broken{} })
		if got := ask(t, h, podReview(t, pod("", annotated("cluster", "fleet/tenant-1")))); !got.Allowed || got.Patch == nil {
			t.Errorf("got %+v", got.Result)
		}
	})
}

func TestStripKeepsWhatIsJudged(t *testing.T) {
	whole := tenant1(ready(
		metav1.Condition{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonResolvedWithWarning, Message: "plain http"},
		metav1.Condition{Type: v1alpha1.ConditionReachable, Status: metav1.ConditionFalse, Message: "no answer"},
	))
	whole.Spec.Access, whole.Status.SubjectTokenAudience = onEKS(), "sts.amazonaws.com"
	whole.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}
	whole.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	whole.Spec.Issue.Federation = &v1alpha1.FederationIssue{Audience: "tenant-1.example.com", Duration: &metav1.Duration{Duration: time.Hour}}
	whole.Spec.DefaultNamespace = "team-a"
	whole.Spec.Endpoint = &v1alpha1.Endpoint{CertificateAuthorityData: []byte("PEM")}
	stripped, err := Strip(whole)
	must(t, err)
	lean, ok := stripped.(*v1alpha1.TargetCluster)
	if !ok {
		t.Fatalf("a %T", stripped)
	}
	if lean.Spec.Endpoint != nil || lean.Annotations != nil || lean.ManagedFields != nil {
		t.Errorf("left: %+v", lean)
	}
	target, warnings, err := TargetFromStatus(whole, false)
	must(t, err)
	leanTarget, leanWarnings, err := TargetFromStatus(lean, false)
	must(t, err)
	if target.SubjectAudience != "sts.amazonaws.com" || len(warnings) != 2 || !strings.Contains(warnings[0], "TargetCluster fleet/tenant-1: plain http") {
		t.Errorf("judged %+v %q", target, warnings)
	}
	if !reflect.DeepEqual(target, leanTarget) || target.Namespace != "team-a" || !slices.Equal(warnings, leanWarnings) {
		t.Errorf("whole: %+v %q; stripped: %+v %q", target, warnings, leanTarget, leanWarnings)
	}
}

// onEKS returns the access to a cluster whose provider exchanges a token of the Pod.
func onEKS() v1alpha1.Access {
	return v1alpha1.Access{Type: v1alpha1.AccessEKS, EKS: &v1alpha1.EKSAccess{
		ClusterName: "tenant-1", Region: "eu-central-1", Identity: v1alpha1.IdentityWorkload, RoleARN: "arn:aws:iam::123456789012:role/web",
	}}
}

// TestForgedAudienceIsDenied checks that a Pod gets no token for an audience that the provider in
// the spec does not need, whatever the status contains.
func TestForgedAudienceIsDenied(t *testing.T) {
	const local = "https://kubernetes.default.svc"
	for name, test := range map[string]struct {
		access    v1alpha1.Access
		annotated map[string]string
		audience  string
	}{
		"no exchange":           {audience: local, annotated: annotated("cluster", "fleet/tenant-1")},
		"a further cluster":     {audience: local, annotated: annotated("clusters", "fleet/tenant-1")},
		"of another provider":   {access: onEKS(), audience: "api://AzureADTokenExchange", annotated: annotated("cluster", "fleet/tenant-1")},
		"similar":               {access: onEKS(), audience: "sts.amazonaws.com.example.com", annotated: annotated("cluster", "fleet/tenant-1")},
		"none where one is due": {access: onEKS(), annotated: annotated("cluster", "fleet/tenant-1")},
	} {
		t.Run(name, func(t *testing.T) {
			forged := tenant1(ready())
			forged.Spec.Access, forged.Status.SubjectTokenAudience = test.access, test.audience
			h := testHandler(t, func(cfg *Config) {
				cfg.Cached, cfg.Live = shelf{"fleet/tenant-1": forged}, shelf{"fleet/tenant-1": forged}
			})
			got := ask(t, h, podReview(t, pod("", test.annotated)))
			if got.Allowed || got.Patch != nil || !strings.Contains(got.Result.Message, "TargetCluster fleet/tenant-1: status.subjectTokenAudience") {
				t.Errorf("allowed %t, %+v", got.Allowed, got.Result)
			}
		})
	}
}

// TestFederated: a federated Pod has no sidecar, but is checked like other Pods.
func TestFederated(t *testing.T) {
	federated := tenant1(ready())
	federated.Spec.Issue = v1alpha1.Issue{Type: v1alpha1.IssueFederation, Federation: &v1alpha1.FederationIssue{Audience: "tenant-1.example.com"}}
	h := testHandler(t, func(cfg *Config) { cfg.Cached = shelf{"fleet/tenant-1": federated} })
	got := ask(t, h, podReview(t, pod("", annotated("cluster", "fleet/tenant-1"))))
	if patch := string(got.Patch); !got.Allowed || !strings.Contains(patch, "tenant-1.example.com") || strings.Contains(patch, "refresher") {
		t.Errorf("got %+v %s", got.Result, got.Patch)
	}
	refuse := testHandler(t, func(cfg *Config) {
		cfg.Cached = shelf{"fleet/tenant-1": federated}
		cfg.MayUse = func(context.Context, types.NamespacedName, use.Object) (bool, error) { return false, nil }
	})
	if got := ask(t, refuse, podReview(t, pod("", annotated("cluster", "fleet/tenant-1")))); got.Allowed || got.Result.Code != http.StatusForbidden {
		t.Errorf("got %+v", got)
	}
}

// TestServiceAccount checks that access is checked for the Pod's ServiceAccount in the namespace of
// the request.
func TestServiceAccount(t *testing.T) {
	var asked types.NamespacedName
	h := testHandler(t, func(cfg *Config) {
		cfg.MayUse = func(_ context.Context, serviceAccount types.NamespacedName, _ use.Object) (bool, error) {
			asked = serviceAccount
			return true, nil
		}
	})
	for name, want := range map[string]string{"": "shop/default", "web": "shop/web"} {
		p := running(name, pod("elsewhere", annotated("cluster", "fleet/tenant-1")))
		if got := ask(t, h, podReview(t, p)); !got.Allowed || asked.String() != want {
			t.Errorf("ServiceAccount %q: asks for %s, want %s", name, asked, want)
		}
	}
}

// TestBrokerAddress checks that the broker's address is looked up only for Pods whose DNS does not
// resolve Services.
func TestBrokerAddress(t *testing.T) {
	asked := 0
	h := testHandler(t, func(cfg *Config) {
		cfg.BrokerAddress = func(context.Context) (string, error) { asked++; return "10.96.4.2", nil }
	})
	p := pod("", annotated("cluster", "fleet/tenant-1"))
	if got := ask(t, h, podReview(t, p)); !got.Allowed || asked != 0 {
		t.Errorf("asked %d times for a Pod that needs it not", asked)
	}
	p.Spec.DNSPolicy = corev1.DNSDefault
	if got := ask(t, h, podReview(t, p)); !got.Allowed || asked != 1 || !strings.Contains(string(got.Patch), "--broker-address=10.96.4.2") {
		t.Errorf("asked %d times, got %s", asked, got.Patch)
	}
	unknown := testHandler(t, nil)
	if got := ask(t, unknown, podReview(t, p)); got.Allowed || !strings.Contains(got.Result.Message, "dnsPolicy") {
		t.Errorf("without an address: %+v", got)
	}
}

// TestMayUseKeepsOnlyAYes checks that an allowed result is cached for 10 seconds, and that a denied
// result is not cached.
func TestMayUseKeepsOnlyAYes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, allowed := 0, false
		apiServer := roundTripper(func(r *http.Request) (*http.Response, error) {
			asked++
			var review authorizationv1.SubjectAccessReview
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
				t.Error(err)
			}
			want := authorizationv1.ResourceAttributes{Namespace: "fleet", Verb: "use", Group: "keyferry.dev", Version: "v1alpha1", Resource: "targetclusters", Name: "tenant-1"}
			if *review.Spec.ResourceAttributes != want {
				t.Errorf("asks for %+v", review.Spec.ResourceAttributes)
			}
			if got := review.Spec.User + " " + strings.Join(review.Spec.Groups, " "); got != "system:serviceaccount:app:web system:serviceaccounts system:serviceaccounts:app system:authenticated" {
				t.Errorf("asks for %s", got)
			}
			review.Status.Allowed = allowed
			w := httptest.NewRecorder()
			w.Header().Set("Content-Type", "application/json")
			err := json.NewEncoder(w).Encode(review)
			return w.Result(), err
		})
		// JSON, so that this test can read it.
		reviews, err := authorizationclient.NewForConfig(&rest.Config{Transport: apiServer, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
		must(t, err)
		mayUse, err := NewMayUse(reviews)
		must(t, err)
		is := func(want bool, wantAsked int) {
			t.Helper()
			<-time.After(time.Millisecond)
			may, err := mayUse(t.Context(), types.NamespacedName{Namespace: "app", Name: "web"}, use.TargetCluster(types.NamespacedName{Namespace: "fleet", Name: "tenant-1"}))
			if may != want || err != nil || asked != wantAsked {
				t.Errorf("%t, %v after %d questions; want %t after %d", may, err, asked, want, wantAsked)
			}
		}
		is(false, 1)
		is(false, 2)
		allowed = true
		is(true, 3)
		is(true, 3)
		allowed = false
		<-time.After(9 * time.Second)
		is(true, 3)
		<-time.After(time.Second)
		is(false, 4)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
