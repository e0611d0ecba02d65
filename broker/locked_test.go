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
	wantStatus(t, w, http.StatusLocked, metav1.StatusReasonForbidden, "ServiceAccount app/web is locked by Lock app/incident-7: stolen laptop: ")
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

// othersRequest is a request of a Pod that may not use the target.
func othersRequest() *http.Request {
	r := request("{}")
	r.Header.Set("Authorization", "Bearer "+otherToken)
	return r
}

// TestLockTellsNothingToOthers: Pods that may not use a target do not find out that it is locked.
func TestLockTellsNothingToOthers(t *testing.T) {
	b := newBench(t, webMayUse, neverIssue(t))
	b.findLock = func(a locks.Access) (*locks.Lock, error) {
		if slices.Contains(a.Objects, use.TargetCluster(target)) {
			return denying(), nil
		}
		return nil, nil
	}
	w := b.do(othersRequest())
	wantStatus(t, w, http.StatusForbidden, metav1.StatusReasonForbidden, "may not use TargetCluster fleet/tenant-1")
	if strings.Contains(w.Body.String(), "stolen laptop") {
		t.Error(w.Body)
	}
}

// TestLockedAndForbidden: the sidecar deletes its credential only if the Pod is locked, so a Pod
// must find out about its lock although its ServiceAccount may not use the target any more. It does
// not find out the reason.
func TestLockedAndForbidden(t *testing.T) {
	b := newBench(t, webMayUse, neverIssue(t))
	var asked locks.Access
	b.findLock = func(a locks.Access) (*locks.Lock, error) {
		asked = a
		return denying(), nil
	}
	w := b.do(othersRequest())
	wantStatus(t, w, http.StatusLocked, metav1.StatusReasonForbidden, "is locked: keyferry locks -n ")
	if strings.Contains(w.Body.String(), "stolen laptop") {
		t.Error(w.Body)
	}
	if asked.ServiceAccount.Name == "" || asked.Pod == "" || len(asked.Objects) != 0 {
		t.Errorf("looked for a lock of %+v", asked)
	}
	b.findLock = func(locks.Access) (*locks.Lock, error) { return nil, errors.New("no cache") }
	wantStatus(t, b.do(othersRequest()), http.StatusForbidden, metav1.StatusReasonForbidden, "may not use TargetCluster fleet/tenant-1")
}

// TestLockedAndTooMany: a Pod that exceeds its rate limit finds out about its lock, and cannot
// flood the audit.
func TestLockedAndTooMany(t *testing.T) {
	b := newBench(t, webMayUse, issueAlways)
	for range questionsAtOnce {
		b.do(request("{}"))
	}
	b.findLock = func(locks.Access) (*locks.Lock, error) { return denying(), nil }
	for range 3 {
		w := b.do(request("{}"))
		wantStatus(t, w, http.StatusLocked, metav1.StatusReasonForbidden, "Pod app/web-0 is locked")
		if w.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	if lines := strings.Count(b.audit.String(), `"outcome":"locked"`); lines != 1 {
		t.Errorf("%d lines of the audit", lines)
	}
}

// TestLockedMeanwhile: a lock that is created while a credential is issued denies that credential.
func TestLockedMeanwhile(t *testing.T) {
	var b *bench
	b = newBench(t, webMayUse, func(context.Context, types.NamespacedName, providers.Request) (issuer.Issued, error) {
		b.findLock = func(locks.Access) (*locks.Lock, error) { return denying(), nil }
		return issued(), nil
	})
	w := b.do(request("{}"))
	wantStatus(t, w, http.StatusLocked, metav1.StatusReasonForbidden, "stolen laptop")
	if strings.Contains(w.Body.String(), issued().Token) {
		t.Error("the response has the credential")
	}
}
