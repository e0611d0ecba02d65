package credentials

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

// downIssuer resolves, and its provider does not answer.
type downIssuer struct{ Issuer }

func (downIssuer) Fresh(context.Context, *v1alpha1.TargetCluster, issuer.Resolution, providers.Request) (issuer.Issued, error) {
	return issuer.Issued{}, providers.Unavailable(0, errors.New("the provider is down"))
}

func TestForbidden(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.forbid()
	first := w.look()
	message := w.condition(v1alpha1.ConditionIssued, metav1.ConditionFalse, reasonForbidden)
	if want := `ServiceAccount ` + w.ns + `/web may not use TargetCluster ` + w.fleet + `/tenant-1: grant the verb "use"`; !strings.HasPrefix(message, want) ||
		!strings.Contains(message, "keyferry grant "+w.fleet+"/tenant-1 "+w.ns+"/web") {
		t.Errorf("message %q", message)
	}
	if w.secret(w.request) != nil || w.minted.Load() != 0 {
		t.Error("issued nevertheless")
	}
	if first <= 0 || first > firstBackoff {
		t.Errorf("tries again after %s", first)
	}
	w.create(bindingOf(w))
	w.now = w.now.Add(lastBackoff)
	w.eventually("the right", func() bool {
		w.now = w.now.Add(lastBackoff)
		w.look()
		return isReady(w.request.Status.Conditions)
	})
}

func TestWithdrawnRightStopsRenewal(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	before := w.secret(w.request)
	w.forbid()
	w.ready() // nothing is due
	w.now = w.request.Status.RenewAt.Time
	w.look()
	message := w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, reasonForbidden)
	if !strings.Contains(message, "the credential in the Secret expires at") {
		t.Errorf("message %q", message)
	}
	if after := w.secret(w.request); after.ResourceVersion != before.ResourceVersion {
		t.Error("the Secret was written")
	}
	if w.minted.Load() != 1 {
		t.Error("issued without the right")
	}
	// What is deleted then does not come back.
	w.delete(before)
	w.now = w.now.Add(lastBackoff)
	w.look()
	if w.secret(w.request) != nil {
		t.Error("the Secret came back without the right")
	}
}

func TestServiceAccountMissing(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.change(func(s *v1alpha1.CredentialRequestSpec) { s.ServiceAccountName = "nobody" })
	w.look()
	w.condition(v1alpha1.ConditionIssued, metav1.ConditionFalse, reasonServiceAccountNotFound)
	if w.minted.Load() != 0 {
		t.Error("issued nevertheless")
	}
}

func TestAudit(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	w.forbid()
	w.now = w.request.Status.RenewAt.Time
	w.look()
	if len(w.audit) != 2 || !strings.Contains(w.audit[0], `"outcome"="issued"`) || !strings.Contains(w.audit[0], `"credentialID"="JTI=`) ||
		!strings.Contains(w.audit[1], `"outcome"="refused"`) || !strings.Contains(w.audit[1], `"reason"="Forbidden"`) {
		t.Errorf("audit %q", w.audit)
	}
	token := w.token()
	for _, line := range append(append(w.audit, w.told()...), w.secret(w.request).Annotations[v1alpha1.AnnotationCredential]) {
		if strings.Contains(line, token) || strings.Contains(line, strings.Split(token, ".")[2]) {
			t.Error("a credential is where it must not be")
		}
	}
}

// TestNothingIsWrittenWhileNothingChanges: neither while all is well nor while nothing works.
func TestNothingIsWrittenWhileNothingChanges(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"ready":     func(*world) {},
		"forbidden": func(w *world) { w.forbid() },
		"down":      func(w *world) { w.it.cfg.Issuer = downIssuer{w.cfg.Issuer} },
		"conflict": func(w *world) {
			w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: w.request.Spec.Secret.Name}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, v1alpha1.CredentialTokenFile)
			spoil(w)
			w.look()
			w.told()
			before := w.writes.Load()
			for range 10 {
				w.now = w.now.Add(time.Minute)
				w.look()
			}
			if writes, told := w.writes.Load()-before, w.told(); writes != 0 || len(told) != 0 {
				t.Errorf("%d writes, Events %q", writes, told)
			}
		})
	}
}

func TestRestartIssuesNothing(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	before := w.writes.Load()
	w.restart()
	w.now = w.now.Add(time.Minute)
	w.ready()
	if w.minted.Load() != 1 || w.writes.Load() != before {
		t.Errorf("%d issued, %d writes", w.minted.Load(), w.writes.Load()-before)
	}
}

func bindingOf(w *world) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: "web-tenant-1"},
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "web-tenant-1"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: "web"}},
	}
}

// Users who may create CredentialRequests get the same answer for a TargetCluster that works, one
// that does not and one that does not exist, as long as the ServiceAccount may not use it; and each
// answer is audited.
func TestForbiddenTellsNothingOfTheTarget(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.targetCluster("tenant-2", w.target)
	w.delete(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: "tenant-2"}})
	w.targetCluster("tenant-3", w.target)
	w.profile("tenant-3")
	w.forbid()
	resolved := &countingIssuer{Issuer: w.cfg.Issuer}
	w.it.cfg.Issuer = resolved
	answers := map[string]string{}
	for _, name := range []string{"tenant-1", "tenant-2", "tenant-3", "nope"} {
		w.audit = nil
		w.change(func(s *v1alpha1.CredentialRequestSpec) { s.TargetCluster.Name = name })
		w.look()
		message := w.condition(v1alpha1.ConditionIssued, metav1.ConditionFalse, reasonForbidden)
		answers[strings.ReplaceAll(message, name, "NAME")] = name
		if len(w.audit) != 1 || !strings.Contains(w.audit[0], `"outcome"="refused"`) || !strings.Contains(w.audit[0], `"reason"="Forbidden"`) {
			t.Errorf("%s: audit %q", name, w.audit)
		}
	}
	if len(answers) != 1 {
		t.Errorf("the answers differ: %q", answers)
	}
	if resolved.calls != 0 {
		t.Errorf("%d TargetClusters were resolved", resolved.calls)
	}
}

// The right on the ClusterProfile is checked before the TargetCluster that names it is resolved.
func TestForbiddenProfileIsNotResolved(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.profile("tenant-1")
	resolved := &countingIssuer{Issuer: w.cfg.Issuer}
	w.it.cfg.Issuer = resolved
	w.look()
	message := w.condition(v1alpha1.ConditionIssued, metav1.ConditionFalse, reasonForbidden)
	if !strings.Contains(message, "ClusterProfile "+w.fleet+"/secret-profile") || resolved.calls != 0 {
		t.Errorf("%d resolved, message %q", resolved.calls, message)
	}
}

// A refusal of the TargetCluster itself is audited, too.
func TestTargetThatDoesNotResolveIsAudited(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.delete(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: "tenant-1"}})
	w.look()
	if len(w.audit) != 1 || !strings.Contains(w.audit[0], `"outcome"="refused"`) || !strings.Contains(w.audit[0], `"reason"="SecretNotFound"`) {
		t.Errorf("audit %q", w.audit)
	}
}

// While a credential is not due, its right is reviewed every 10 minutes.
func TestRightIsReviewedWhileNothingIsDue(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	var reviews atomic.Int32
	w.intercept = func(req *http.Request) (*http.Response, error) {
		if strings.HasSuffix(req.URL.Path, "subjectaccessreviews") {
			reviews.Add(1)
		}
		return nil, nil
	}
	for range 10 {
		w.now = w.now.Add(time.Minute)
		w.ready()
	}
	if got := reviews.Load(); got != 0 {
		t.Errorf("%d reviews in %s", got, reviewLasts)
	}
	w.forbid()
	w.now = w.now.Add(time.Minute)
	w.look()
	w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, reasonForbidden)
	if w.secret(w.request) == nil {
		t.Error("the Secret is gone")
	}
}

// countingIssuer counts how often a TargetCluster is resolved.
type countingIssuer struct {
	Issuer

	calls int
}

func (c *countingIssuer) Resolve(ctx context.Context, cluster *v1alpha1.TargetCluster) (issuer.Resolution, error) {
	c.calls++
	return c.Issuer.Resolve(ctx, cluster)
}

// profile has a TargetCluster name a ClusterProfile, which nobody may use.
func (w *world) profile(name string) {
	w.t.Helper()
	cluster := &v1alpha1.TargetCluster{}
	if err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.fleet, Name: name}, cluster); err != nil {
		w.t.Fatal(err)
	}
	cluster.Spec.ClusterProfile = &v1alpha1.ObjectReference{Namespace: w.fleet, Name: "secret-profile"}
	w.update(cluster)
}
