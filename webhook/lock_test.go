package webhook

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/use"
)

// TestLockedPodIsDenied: on an API server, and admitted again without the lock.
func TestLockedPodIsDenied(t *testing.T) {
	targetCluster(t, "locked", ready())
	grant(t, types.NamespacedName{Namespace: "shop", Name: "web"}, "locked")
	p := running("web", pod("shop", annotated("cluster", "fleet/locked")))
	lock := &v1alpha1.Lock{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "incident-7"},
		Spec: v1alpha1.LockSpec{
			Subject:   v1alpha1.LockSubject{Type: v1alpha1.LockTargetCluster, Name: "locked"},
			LockTerms: v1alpha1.LockTerms{Reason: "stolen key"},
		},
	}
	must(t, api.client.Create(t.Context(), lock))
	t.Cleanup(func() { must(t, client.IgnoreNotFound(api.client.Delete(context.Background(), lock))) })
	status := createDenied(t, p)
	if status.Code != http.StatusForbidden || !strings.Contains(status.Message, "is locked by Lock fleet/incident-7: stolen key: ") {
		t.Errorf("got %+v", status)
	}
	must(t, api.client.Delete(t.Context(), lock))
	must(t, api.client.Create(t.Context(), p.DeepCopy(), client.DryRunAll))
}

// TestLockedProfileOfARequest: a Pod that names a CredentialRequest is denied for a lock of the
// ClusterProfile that the TargetCluster of the request names.
func TestLockedProfileOfARequest(t *testing.T) {
	tc := targetCluster(t, "of-a-profile", ready())
	tc.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessExec, Exec: &v1alpha1.ExecAccess{Provider: "broker"}}
	tc.Spec.ClusterProfile = &v1alpha1.ObjectReference{Namespace: "fleet", Name: "paris"}
	must(t, api.client.Update(t.Context(), tc))
	credentialRequest(t, "of-a-profile", "of-a-profile", v1alpha1.CredentialTokenFile)
	var asked []use.Object
	h := testHandler(t, func(cfg *Config) {
		cfg.Cached, cfg.Live = api.client, api.client
		cfg.MayUse = func(context.Context, types.NamespacedName, use.Object) (bool, error) { return true, nil }
		cfg.FindLock = func(_ context.Context, a locks.Access) (*locks.Lock, error) {
			asked = append(asked, a.Objects...)
			return nil, nil
		}
	})
	p := running("web", pod("app", annotated("credential-request", "of-a-profile")))
	review := bytes.ReplaceAll(podReview(t, p), []byte(`"namespace":"shop"`), []byte(`"namespace":"app"`))
	if got := ask(t, h, review); !got.Allowed {
		t.Fatalf("got %+v", got)
	}
	if want := use.Of(tc); !slices.Equal(asked, want) {
		t.Errorf("looked for locks of %v, want %v", asked, want)
	}
}

// lockedHandler returns a handler whose locks are found by find.
func lockedHandler(t *testing.T, may bool, find locks.Find) *Handler {
	t.Helper()
	return testHandler(t, func(cfg *Config) {
		cfg.FindLock = find
		cfg.MayUse = func(context.Context, types.NamespacedName, use.Object) (bool, error) { return may, nil }
	})
}

func TestLockIsAskedForTheWholeAccess(t *testing.T) {
	var asked []locks.Access
	h := lockedHandler(t, true, func(_ context.Context, a locks.Access) (*locks.Lock, error) {
		asked = append(asked, a)
		return nil, nil
	})
	p := pod("shop", annotated("cluster", "fleet/tenant-1"))
	p.Name = "web-0"
	if got := ask(t, h, podReview(t, p)); !got.Allowed {
		t.Fatalf("got %+v", got)
	}
	want := use.TargetCluster(types.NamespacedName{Namespace: "fleet", Name: "tenant-1"})
	if len(asked) != 1 || asked[0].ServiceAccount.String() != "shop/default" || asked[0].Pod != "web-0" || len(asked[0].Objects) != 1 || asked[0].Objects[0] != want {
		t.Errorf("looked for a lock of %+v", asked)
	}
}

// TestLocksThatCannotBeRead: an outage must not open what may be locked.
func TestLocksThatCannotBeRead(t *testing.T) {
	h := lockedHandler(t, true, func(context.Context, locks.Access) (*locks.Lock, error) { return nil, errors.New("no cache") })
	if got := ask(t, h, podReview(t, pod("shop", annotated("cluster", "fleet/tenant-1")))); got.Allowed {
		t.Error("admitted")
	}
}

// TestLockTellsNothingToOthers: the reason of a lock is for users of the target.
func TestLockTellsNothingToOthers(t *testing.T) {
	h := lockedHandler(t, false, func(context.Context, locks.Access) (*locks.Lock, error) {
		t.Error("looked for locks")
		return nil, nil
	})
	if got := ask(t, h, podReview(t, pod("shop", annotated("cluster", "fleet/tenant-1")))); got.Allowed || !strings.Contains(got.Result.Message, "may not use") {
		t.Errorf("got %+v", got)
	}
}
