package credentials

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// lockTarget locks the TargetCluster of the world.
func (w *world) lockTarget(expires *metav1.Time) *v1alpha1.Lock {
	w.t.Helper()
	lock := &v1alpha1.Lock{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: "incident-7"},
		Spec: v1alpha1.LockSpec{
			Subject:   v1alpha1.LockSubject{Type: v1alpha1.LockTargetCluster, Name: "tenant-1"},
			LockTerms: v1alpha1.LockTerms{Reason: "stolen key", ExpirationTimestamp: expires},
		},
	}
	w.create(lock)
	return lock
}

// locked is how many lines of the audit are about a lock.
func (w *world) locked() (lines int) {
	for _, line := range w.audit {
		if strings.Contains(line, `"outcome"="locked"`) {
			lines++
		}
	}
	return lines
}

// TestLock: the Secret goes, its credential ends in the target, and another one is issued once the
// lock is deleted.
func TestLock(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	token := w.token()
	if _, ok := w.target.knows(t, token); !ok {
		t.Fatal("the token does not work")
	}
	lock := w.lockTarget(nil)
	if next := w.look(); next > resync {
		t.Errorf("looks again after %s", next)
	}
	if w.secret(w.request) != nil {
		t.Fatal("the Secret is still there")
	}
	for _, kind := range []string{v1alpha1.ConditionIssued, v1alpha1.ConditionSecretWritten, v1alpha1.ConditionReady} {
		w.condition(kind, metav1.ConditionFalse, v1alpha1.ReasonLocked)
	}
	message := w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonLocked)
	if want := "TargetCluster " + w.fleet + "/tenant-1 is locked by Lock " + w.fleet + "/incident-7: stolen key: "; !strings.HasPrefix(message, want) {
		t.Errorf("message %q", message)
	}
	w.eventually("the end of the token", func() bool { // API servers cache what they authenticated
		_, ok := w.target.knows(t, token)
		return !ok
	})
	w.look()
	if w.minted.Load() != 1 || w.locked() != 1 {
		t.Errorf("issued %d times, audited %d times", w.minted.Load(), w.locked())
	}
	if events := w.told(); !slices.ContainsFunc(events, func(e string) bool { return strings.HasPrefix(e, "Warning Locked ") }) {
		t.Errorf("Events %q", events)
	}

	w.delete(lock)
	w.ready()
	if w.token() == token || w.minted.Load() != 2 {
		t.Error("the credential is not another one")
	}
}

// TestLockKeepsTheClusterOfArgoCD: without the Secret, ApplicationSets would delete Applications.
func TestLockKeepsTheClusterOfArgoCD(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialArgoCD)
	w.ready()
	before := w.secret(w.request)
	if !strings.Contains(string(before.Data["config"]), "bearerToken") {
		t.Fatal("the Secret holds no token")
	}
	lock := w.lockTarget(nil)
	w.look()
	w.look()
	after := w.secret(w.request)
	if after == nil || !maps.Equal(after.Labels, before.Labels) || !bytes.Equal(after.Data["server"], before.Data["server"]) || !bytes.Equal(after.Data["name"], before.Data["name"]) {
		t.Fatal("the Secret is not that of the cluster any more")
	}
	if config := string(after.Data["config"]); strings.Contains(config, "bearerToken") || !strings.Contains(config, "caData") {
		t.Error("config without its token is not what it was")
	}
	w.condition(v1alpha1.ConditionSecretWritten, metav1.ConditionFalse, v1alpha1.ReasonLocked)
	if w.locked() != 1 {
		t.Errorf("audited %d times", w.locked())
	}
	w.delete(lock)
	w.ready()
	if config := w.secret(w.request).Data["config"]; !strings.Contains(string(config), "bearerToken") || bytes.Equal(config, before.Data["config"]) {
		t.Error("there is no new credential")
	}
}

// TestLockedIsNotAnAlert: the metric of the alert for requests that are not ready has no value
// while an operator locks the request.
func TestLockedIsNotAnAlert(t *testing.T) {
	t.Parallel()
	m, err := newMeasures(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for reason, values := range map[string]int{"Unavailable": 1, v1alpha1.ReasonLocked: 0} {
		condition := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason}
		m.set(&v1alpha1.CredentialRequest{}, v1alpha1.CredentialRequestStatus{Conditions: []metav1.Condition{condition}})
		if got := testutil.CollectAndCount(m.ready); got != values {
			t.Errorf("%s: %d values, want %d", reason, got, values)
		}
	}
}

// TestLockAfterARestart: what the Secret holds is not written again from memory.
func TestLockAfterARestart(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	token := w.token()
	w.restart()
	lock := w.lockTarget(nil)
	w.look()
	w.delete(lock)
	w.ready()
	if w.token() == token {
		t.Error("the locked credential came back")
	}
}

func TestLockExpires(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	w.lockTarget(&metav1.Time{Time: w.now.Add(20 * time.Second)})
	if next := w.look(); next != 20*time.Second {
		t.Errorf("looks again after %s", next)
	}
	w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonLocked)
	w.now = w.now.Add(20 * time.Second)
	w.ready()
}

// TestLockTellsNothingToOthers: without the right to use a target, users do not read that it is
// locked. The Secret is deleted nevertheless.
func TestLockTellsNothingToOthers(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	w.forbid()
	w.now = w.now.Add(reviewLasts + time.Second)
	w.lockTarget(nil)
	w.look()
	if message := w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, reasonForbidden); strings.Contains(message, "stolen key") {
		t.Error(message)
	}
	if w.secret(w.request) != nil {
		t.Error("the Secret is still there")
	}
}

// TestLockEmptiesASecretWithFinalizers: a Secret that is deleted later, and one without its label,
// holds nothing while the request is locked.
func TestLockEmptiesASecretWithFinalizers(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	secret := w.secret(w.request)
	secret.Finalizers, secret.Labels = []string{"example.com/backup"}, nil
	w.update(secret)
	defer func() {
		if secret := w.secret(w.request); secret != nil {
			secret.Finalizers = nil
			w.update(secret)
		}
	}()
	w.lockTarget(nil)
	w.look()
	w.look()
	if secret := w.secret(w.request); secret == nil || len(secret.Data) != 0 || secret.DeletionTimestamp == nil {
		t.Error("the Secret still holds data, or is not deleted")
	}
	w.condition(v1alpha1.ConditionSecretWritten, metav1.ConditionFalse, v1alpha1.ReasonLocked)
	if w.locked() != 1 {
		t.Errorf("audited %d times", w.locked())
	}
}

// TestLockDeletesFormerSecrets: also if the Secret that the request names now is not the request's.
func TestLockDeletesFormerSecrets(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	former := w.request.DeepCopy()
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "foreign"}})
	w.change(func(s *v1alpha1.CredentialRequestSpec) { s.Secret.Name = "foreign" })
	w.lockTarget(nil)
	w.look()
	if w.secret(former) != nil {
		t.Error("the former Secret is still there")
	}
	if w.secret(w.request) == nil {
		t.Error("the Secret of another owner was deleted")
	}
	w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonLocked)
	w.condition(v1alpha1.ConditionSecretWritten, metav1.ConditionFalse, reasonSecretConflict)
}

// TestLockWithAFailingDelete: the credential is revoked in the target nevertheless, and the status
// reports the problem.
func TestLockWithAFailingDelete(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.ready()
	token := w.token()
	w.intercept = func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodDelete && strings.Contains(req.URL.Path, "/secrets/") {
			return nil, errors.New("no connection")
		}
		return nil, nil
	}
	w.lockTarget(nil)
	if next := w.look(); next > lastBackoff {
		t.Errorf("looks again after %s", next)
	}
	w.condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonLocked)
	if message := w.condition(v1alpha1.ConditionSecretWritten, metav1.ConditionFalse, v1alpha1.ReasonLocked); !strings.HasPrefix(message, "a Secret still holds a credential: ") {
		t.Errorf("message %q", message)
	}
	w.eventually("the end of the token", func() bool {
		_, ok := w.target.knows(t, token)
		return !ok
	})
}

// TestLockedAndForbiddenStatus: without the right to use the target, all conditions are the same
// with and without a lock.
func TestLockedAndForbiddenStatus(t *testing.T) {
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	w.forbid()
	w.look()
	before := w.request.Status.DeepCopy()
	w.lockTarget(nil)
	w.look()
	if !equality.Semantic.DeepEqual(*before, w.request.Status) {
		t.Errorf("the status without the lock:\n%+v\nand with it:\n%+v", *before, w.request.Status)
	}
}
