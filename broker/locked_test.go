package broker

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

// denying finds one lock for every access.
func denying() *locks.Lock {
	lock := locks.Of(&v1alpha1.Lock{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "incident-7"},
		Spec:       v1alpha1.LockSpec{Subject: v1alpha1.LockSubject{Type: v1alpha1.LockServiceAccount, Name: "web"}, LockTerms: v1alpha1.LockTerms{Reason: "stolen laptop"}},
	})
	return &lock
}

// neverIssue fails the test if a credential is issued.
func neverIssue(t *testing.T) fakeIssuer {
	return func(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error) {
		t.Error("issued")
		return issued(), nil
	}
}

func TestLocked(t *testing.T) {
	b := newBench(t, webMayUse, neverIssue(t))
	var asked locks.Access
	b.findLock = func(a locks.Access) (*locks.Lock, error) {
		asked = a
		return denying(), nil
	}
	w := b.do(request("{}"))
	wantStatus(t, w, http.StatusLocked, metav1.StatusReasonForbidden, "Pod app/web-0 (ServiceAccount web) is locked by Lock app/incident-7: stolen laptop: ")
	if asked.ServiceAccount.String() != "app/web" || asked.Pod != "web-0" || !slices.Equal(asked.Objects, []use.Object{use.TargetCluster(target)}) {
		t.Errorf("looked for a lock of %+v", asked)
	}
	wantAudit(t, b, map[string]any{"msg": "credential refused", "outcome": "locked", "code": 423.0, "reason": "Locked", "pod": "web-0", "targetCluster": "fleet/tenant-1"})
	if got := counted(t, b, "locked", "423", "none"); got != 1 {
		t.Errorf("keyferry_issue_requests_total is %v", got)
	}
	select {
	case event := <-b.events.Events:
		if !strings.Contains(event, "stolen laptop") {
			t.Error(event)
		}
	case <-time.After(time.Minute):
		t.Error("no Event")
	}
}

// TestLockTakesEffect: on a real API server, the broker learns of locks by its watch, and needs no
// review for it. The test logs the time.
func TestLockTakesEffect(t *testing.T) {
	w := newWorld(t, DefaultReviewTTLs(), canned)
	w.grant(t)
	informers, err := cache.New(apiServer, cache.Options{Scheme: w.Scheme()})
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- informers.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		must(t, <-stopped)
	})
	w.findLock = locks.NewFind(informers, time.Now)
	token := w.token(t, v1alpha1.BrokerAudience, w.pod)
	w.eventually(t, token, http.StatusOK)

	lock := &v1alpha1.Lock{ObjectMeta: w.meta("incident-7"), Spec: v1alpha1.LockSpec{
		Subject: v1alpha1.LockSubject{Type: v1alpha1.LockPod, Name: w.pod.Name}, LockTerms: v1alpha1.LockTerms{Reason: "stolen laptop"},
	}}
	must(t, w.Create(t.Context(), lock))
	created := time.Now()
	status := w.eventually(t, token, http.StatusLocked)
	t.Logf("refused %s after the lock was created: %s", time.Since(created), status.Message)
	must(t, w.Delete(t.Context(), lock))
	deleted := time.Now()
	w.eventually(t, token, http.StatusOK)
	t.Logf("issued %s after the lock was deleted", time.Since(deleted))
}

// TestLocksThatCannotBeRead: an outage must not open what may be locked.
func TestLocksThatCannotBeRead(t *testing.T) {
	b := newBench(t, webMayUse, neverIssue(t))
	b.findLock = func(locks.Access) (*locks.Lock, error) { return nil, errors.New("no cache") }
	wantStatus(t, b.do(request("{}")), http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "could not read the locks")
}

// TestLockTellsNothingToOthers: the reason of a lock is for users of the target.
func TestLockTellsNothingToOthers(t *testing.T) {
	b := newBench(t, webMayUse, neverIssue(t))
	b.findLock = func(locks.Access) (*locks.Lock, error) { return denying(), nil }
	r := request("{}")
	r.Header.Set("Authorization", "Bearer "+otherToken)
	w := b.do(r)
	wantStatus(t, w, http.StatusForbidden, metav1.StatusReasonForbidden, "may not use TargetCluster fleet/tenant-1")
	if strings.Contains(w.Body.String(), "stolen laptop") {
		t.Error(w.Body)
	}
}
