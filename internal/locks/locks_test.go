package locks

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/use"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// access is that of Pod app/web-0, which runs as ServiceAccount web, to a TargetCluster that names
// a ClusterProfile.
func access() Access {
	return Access{
		ServiceAccount: types.NamespacedName{Namespace: "app", Name: "web"},
		Pod:            "web-0",
		Objects: []use.Object{
			use.TargetCluster(types.NamespacedName{Namespace: "fleet", Name: "tenant-1"}),
			use.ClusterProfile(types.NamespacedName{Namespace: "inventory", Name: "paris"}),
		},
	}
}

func lock(namespace string, kind v1alpha1.LockSubjectType, name string) Lock {
	l := &v1alpha1.Lock{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "l"}}
	l.Spec.Subject = v1alpha1.LockSubject{Type: kind, Name: name}
	l.Spec.Reason = "incident 7"
	return Of(l)
}

func clusterLock(namespace string, kind v1alpha1.LockSubjectType, name string) Lock {
	l := &v1alpha1.ClusterLock{ObjectMeta: metav1.ObjectMeta{Name: "l"}}
	l.Spec.Subject = v1alpha1.ClusterLockSubject{Type: kind, Namespace: namespace, Name: name}
	l.Spec.Reason = "incident 7"
	return OfCluster(l)
}

func TestDenying(t *testing.T) {
	t.Parallel()
	noName := access()
	noName.Pod = ""
	for name, test := range map[string]struct {
		lock   Lock
		access Access
		denied bool
	}{
		"the Pod":                                 {lock("app", v1alpha1.LockPod, "web-0"), access(), true},
		"another Pod":                             {lock("app", v1alpha1.LockPod, "web-1"), access(), false},
		"a Pod of that name elsewhere":            {lock("fleet", v1alpha1.LockPod, "web-0"), access(), false},
		"a Pod, and this one has no name":         {lock("app", v1alpha1.LockPod, "web-0"), noName, false},
		"the ServiceAccount":                      {lock("app", v1alpha1.LockServiceAccount, "web"), access(), true},
		"another ServiceAccount":                  {lock("app", v1alpha1.LockServiceAccount, "worker"), access(), false},
		"a ServiceAccount of that name elsewhere": {lock("fleet", v1alpha1.LockServiceAccount, "web"), access(), false},
		"the TargetCluster":                       {lock("fleet", v1alpha1.LockTargetCluster, "tenant-1"), access(), true},
		"another TargetCluster":                   {lock("fleet", v1alpha1.LockTargetCluster, "tenant-2"), access(), false},
		"a TargetCluster of that name elsewhere":  {lock("app", v1alpha1.LockTargetCluster, "tenant-1"), access(), false},
		"its ClusterProfile":                      {lock("inventory", v1alpha1.LockClusterProfile, "paris"), access(), true},
		"a TargetCluster of the profile's name":   {lock("inventory", v1alpha1.LockTargetCluster, "paris"), access(), false},
		"the Pod's namespace":                     {lock("app", v1alpha1.LockEverything, ""), access(), true},
		"the target's namespace":                  {lock("fleet", v1alpha1.LockEverything, ""), access(), true},
		"another namespace":                       {lock("other", v1alpha1.LockEverything, ""), access(), false},
		"the Pod, of the cluster":                 {clusterLock("app", v1alpha1.LockPod, "web-0"), access(), true},
		"another Pod, of the cluster":             {clusterLock("other", v1alpha1.LockPod, "web-0"), access(), false},
		"a namespace, of the cluster":             {clusterLock("app", v1alpha1.LockEverything, ""), access(), true},
		"another namespace, of the cluster":       {clusterLock("other", v1alpha1.LockEverything, ""), access(), false},
		"the whole cluster":                       {clusterLock("", v1alpha1.LockEverything, ""), access(), true},
		"a subject of a later version":            {lock("other", "Node", "a"), access(), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if denied := Denying([]Lock{test.lock}, test.access, now) != nil; denied != test.denied {
				t.Errorf("denied: %t", denied)
			}
		})
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		after  time.Duration
		denied bool
	}{
		"in a second": {time.Second, true},
		"now":         {0, false},
		"long ago":    {-time.Hour, false},
	} {
		l := lock("app", v1alpha1.LockPod, "web-0")
		l.ExpirationTimestamp = &metav1.Time{Time: now.Add(test.after)}
		if denied := Denying([]Lock{l}, access(), now) != nil; denied != test.denied {
			t.Errorf("%s: denied: %t", name, denied)
		}
	}
}

// TestLongestIsNamed: users read of the lock that denies them access for the longest time, whatever
// the order of the locks.
func TestLongestIsNamed(t *testing.T) {
	t.Parallel()
	hour, day := lock("app", v1alpha1.LockPod, "web-0"), lock("app", v1alpha1.LockServiceAccount, "web")
	hour.ExpirationTimestamp, hour.Name = &metav1.Time{Time: now.Add(time.Hour)}, "hour"
	day.ExpirationTimestamp, day.Name = &metav1.Time{Time: now.Add(24 * time.Hour)}, "day"
	ever := clusterLock("", v1alpha1.LockEverything, "")
	ever.Name = "ever"
	for _, test := range []struct {
		locks []Lock
		name  string
	}{
		{[]Lock{hour, day}, "day"}, {[]Lock{day, hour}, "day"}, {[]Lock{hour, ever, day}, "ever"},
	} {
		if found := Denying(test.locks, access(), now); found == nil || found.Name != test.name {
			t.Errorf("found %v, want %s", found, test.name)
		}
	}
}

func TestDenial(t *testing.T) {
	t.Parallel()
	l := lock("app", v1alpha1.LockPod, "web-0")
	l.ExpirationTimestamp = &metav1.Time{Time: now}
	const withExpiry = "Pod app/web-0 is locked by Lock app/l until 2026-01-02T03:04:05Z: incident 7: " +
		"wait until then, or until a user who may delete it does: kubectl delete locks.keyferry.dev l -n app"
	if got := l.Denial(); got != withExpiry {
		t.Errorf("got  %s\nwant %s", got, withExpiry)
	}
	for subject, l := range map[string]Lock{
		"the cluster":                clusterLock("", v1alpha1.LockEverything, ""),
		"namespace fleet":            clusterLock("fleet", v1alpha1.LockEverything, ""),
		"TargetCluster fleet/tenant": clusterLock("fleet", v1alpha1.LockTargetCluster, "tenant"),
	} {
		if got := l.Denial(); !strings.HasPrefix(got, subject+" is locked by ClusterLock l: incident 7: wait until a user") ||
			!strings.HasSuffix(got, ": kubectl delete clusterlocks.keyferry.dev l") {
			t.Error(got)
		}
	}
}
