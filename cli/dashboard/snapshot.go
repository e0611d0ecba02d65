package dashboard

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/dashboard/mirror"
	"github.com/keyferry/keyferry/cli/events"
	"github.com/keyferry/keyferry/cli/grants"
	"github.com/keyferry/keyferry/cli/status"
	"github.com/keyferry/keyferry/cli/targetinfo"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/use"
)

// snapshot is the content of all pages at one time.
type snapshot struct {
	Targets    []*target
	Events     []events.Event // the newest first
	Locks      []*lock
	Namespaces []string
	Notices    []notice
	// RBACIncomplete are sentences about grants that could not be read.
	RBACIncomplete []string
	// Unreadable kinds, such as "Pods": their numbers are not known.
	Unreadable map[string]bool

	users map[userKey][]*user
}

// target is a TargetCluster, or what else Pods use.
type target struct {
	status.Target
	Details        targetinfo.Details
	DeliveryReason string
	Grants         []grants.Grant
	All            []*user

	Pods, ReadyPods, Requests int
	// Next is the next expiry of a credential in a Secret.
	Next *metav1.Time
}

// user is a Pod or CredentialRequest that uses a target.
type user struct {
	status.User
	Target *target
	// May reports whether the ServiceAccount may use the target.
	May grants.Answer
}

func (u *user) account() types.NamespacedName {
	return types.NamespacedName{Namespace: u.Namespace, Name: u.ServiceAccount}
}

type userKey struct {
	kind string
	types.NamespacedName
}

// lock is a Lock or a ClusterLock.
type lock struct {
	locks.Lock
	IsExpired bool
}

// notice is a message at the top of each page.
type notice struct {
	Bad  bool
	Head string
	Text string
}

// build reads a snapshot. Kinds that the user may not list are in its notices.
func build(ctx context.Context, reader client.Reader, states []mirror.State, now time.Time) (*snapshot, error) {
	s := &snapshot{Unreadable: map[string]bool{}, Notices: notices(states)}
	for _, state := range states {
		if state.Denied != nil {
			s.Unreadable[state.Kind] = true
		}
	}
	report, err := status.Read(ctx, reader, status.Scope{})
	if err != nil {
		return nil, err
	}
	rules, err := grants.Read(ctx, reader)
	if err != nil {
		return nil, err
	}
	s.RBACIncomplete = rules.Incomplete
	found, err := events.Read(ctx, reader, metav1.NamespaceAll)
	if err != nil && !apierrors.IsForbidden(err) {
		return nil, err
	}
	slices.Reverse(found)
	s.Events = found
	if err := s.readLocks(ctx, reader, now); err != nil {
		return nil, err
	}
	clusters, err := targetClusters(ctx, reader)
	if err != nil {
		return nil, err
	}
	users := 0
	for i := range report.Targets {
		users += len(report.Targets[i].Users)
	}
	s.users = make(map[userKey][]*user, users)
	for i := range report.Targets {
		s.add(&report.Targets[i], clusters, rules)
	}
	slices.SortStableFunc(s.Targets, func(a, b *target) int { return cmp.Compare(severity(a.Ready), severity(b.Ready)) })
	s.collectNamespaces()
	return s, nil
}

func (s *snapshot) readLocks(ctx context.Context, reader client.Reader, now time.Time) error {
	var own v1alpha1.LockList
	var cluster v1alpha1.ClusterLockList
	for _, list := range []client.ObjectList{&own, &cluster} {
		if err := reader.List(ctx, list); err != nil && !apierrors.IsForbidden(err) {
			return err
		}
	}
	add := func(l locks.Lock) { s.Locks = append(s.Locks, &lock{l, !l.InEffect(now)}) }
	for i := range cluster.Items {
		add(locks.OfCluster(&cluster.Items[i]))
	}
	for i := range own.Items {
		add(locks.Of(&own.Items[i]))
	}
	return nil
}

func targetClusters(ctx context.Context, reader client.Reader) (map[types.NamespacedName]*v1alpha1.TargetCluster, error) {
	list := &v1alpha1.TargetClusterList{}
	if err := reader.List(ctx, list); err != nil && !apierrors.IsForbidden(err) {
		return nil, err
	}
	clusters := make(map[types.NamespacedName]*v1alpha1.TargetCluster, len(list.Items))
	for i := range list.Items {
		clusters[client.ObjectKeyFromObject(&list.Items[i])] = &list.Items[i]
	}
	return clusters, nil
}

func (s *snapshot) add(from *status.Target, clusters map[types.NamespacedName]*v1alpha1.TargetCluster, rules *grants.Rules) {
	name := types.NamespacedName{Namespace: from.Namespace, Name: from.Name}
	t := &target{Target: *from, All: make([]*user, len(from.Users))}
	var objects []use.Object
	switch cluster := clusters[name]; {
	case from.Kind == status.KindClusterProfile:
		objects = []use.Object{use.ClusterProfile(name)}
	case from.Kind == status.KindTargetCluster && cluster != nil:
		t.Details, t.DeliveryReason = targetinfo.Describe(cluster), cluster.Status.DeliveryReason
		objects = use.Of(cluster)
	case from.Kind == status.KindTargetCluster:
		objects = []use.Object{use.TargetCluster(name)}
	}
	for _, o := range objects {
		t.Grants = append(t.Grants, rules.For(o)...)
	}
	users := make([]user, len(from.Users))
	may := map[types.NamespacedName]grants.Answer{}
	for i := range users {
		u := &users[i]
		*u = user{User: from.Users[i], Target: t}
		account := u.account()
		if _, known := may[account]; !known {
			may[account] = rules.May(account, objects...)
		}
		u.May = may[account]
		t.All[i] = u
		t.count(&u.User)
		key := userKey{u.Kind, types.NamespacedName{Namespace: u.Namespace, Name: u.Name}}
		if uses, several := s.users[key]; several {
			s.users[key] = append(uses, u)
		} else {
			s.users[key] = t.All[i : i+1 : i+1]
		}
	}
	s.Targets = append(s.Targets, t)
}

func (t *target) count(u *status.User) {
	if u.Kind == status.KindPod {
		t.Pods++
		if u.State == status.StateReady {
			t.ReadyPods++
		}
		return
	}
	t.Requests++
	if u.Ends != nil && (t.Next == nil || u.Ends.Before(t.Next)) {
		t.Next = u.Ends
	}
}

// severity sorts targets: those with problems are the first.
func severity(ready metav1.ConditionStatus) int {
	return slices.Index([]metav1.ConditionStatus{metav1.ConditionFalse, metav1.ConditionUnknown, metav1.ConditionTrue}, ready)
}

func (s *snapshot) collectNamespaces() {
	all := map[string]bool{}
	for _, t := range s.Targets {
		all[t.Namespace] = true
		for _, u := range t.All {
			all[u.Namespace] = true
		}
	}
	for i := range s.Events {
		all[s.Events[i].Namespace] = true
	}
	delete(all, "")
	s.Namespaces = slices.Sorted(maps.Keys(all))
}

// notices says what the user may not read, and whether the API server answers.
func notices(states []mirror.State) []notice {
	var all []notice
	var lost []string
	for _, state := range states {
		switch {
		case state.Denied != nil:
			all = append(all, notice{Head: state.Kind + ": unknown", Text: "you may not list them: " + state.Denied.Error()})
		case state.Namespace != "":
			all = append(all, notice{Head: state.Kind + ": only namespace " + state.Namespace, Text: "you may not list them in all namespaces"})
		}
		if state.Lost != nil {
			lost = append(lost, state.Kind)
		}
	}
	for _, state := range states {
		if state.Lost == nil {
			continue
		}
		text := fmt.Sprintf("since %s: %v. This page shows the last known state of %s, and continues when the API server answers.",
			state.LostSince.UTC().Format("15:04:05 MST"), state.Lost, strings.Join(lost, ", "))
		return append([]notice{{Bad: true, Head: "No connection to the API server", Text: text}}, all...)
	}
	return all
}
