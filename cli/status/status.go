// Package status says of TargetClusters how they are, who uses them, and what ends when: as far as
// objects of the API server tell, and as far as the user may read them. It reads no Secret.
package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/use"
)

// Scope is what is looked at.
type Scope struct {
	// Namespace is whose TargetClusters, Pods and CredentialRequests are looked at; empty is every
	// namespace. To its TargetClusters belong all who use them, and to its users all that they use,
	// wherever those are.
	Namespace string
	// Names, if there are any, are the only TargetClusters.
	Names []types.NamespacedName
}

// Report is what was found.
type Report struct {
	Targets []Target `json:"targets"`
	// Incomplete are sentences on what could not be read.
	Incomplete []string `json:"incomplete,omitempty"`
}

// The kinds of targets and users.
const (
	KindTargetCluster     = "TargetCluster"
	KindClusterProfile    = "ClusterProfile"
	KindCredentialRequest = "CredentialRequest"
	KindPod               = "Pod"
)

// Target is a TargetCluster, or what else Pods name: a ClusterProfile, or a CredentialRequest that
// is not there.
type Target struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Ready is the status of the condition, with its reason and message. It is Unknown if the
	// controller has not reconciled the target yet, or if the target cannot be read. It is False with
	// the reason Locked if a lock denies all users the target.
	Ready         metav1.ConditionStatus `json:"ready"`
	Reason        string                 `json:"reason,omitempty"`
	Message       string                 `json:"message,omitempty"`
	Endpoint      string                 `json:"endpoint,omitempty"`
	Delivery      string                 `json:"delivery,omitempty"`
	ServerVersion string                 `json:"serverVersion,omitempty"`
	Users         []User                 `json:"users"`

	// inScope says that all its users are told, and not only those in the namespace that is looked at.
	inScope bool
	// objects are what users need the verb use on, as far as they are known.
	objects []use.Object
}

// User is a Pod or a CredentialRequest.
type User struct {
	Kind           string `json:"kind"`
	Namespace      string `json:"namespace"`
	Name           string `json:"name"`
	ServiceAccount string `json:"serviceAccount"`
	// Workload is what a Pod belongs to, such as "Deployment web"; empty for a Pod on its own.
	Workload string `json:"workload,omitempty"`
	// Delivery is how a Pod receives credentials, such as Direct or Proxy.
	Delivery string `json:"delivery,omitempty"`
	// Request is the CredentialRequest whose Secret a Pod has.
	Request string `json:"credentialRequest,omitempty"`
	// State is Ready, or says in a word why it is not, and Message says more.
	State   string `json:"state"`
	Message string `json:"message,omitempty"`
	// Ends and Renews are of the credential in the Secret. Those of other Pods are known to their
	// sidecars alone, or to the kubelet.
	Ends   *metav1.Time `json:"ends,omitempty"`
	Renews *metav1.Time `json:"renews,omitempty"`
}

// StateReady is the State of a User without problems.
const StateReady = "Ready"

// target is the key of a Target.
type target struct {
	kind string
	types.NamespacedName
}

// survey is a Report in the making.
type survey struct {
	client.Reader
	scope Scope
	// chunk is how many objects the API server is asked for at once.
	chunk int64

	targets map[target]*Target
	// anywhere says that users of all namespaces are asked for.
	anywhere   bool
	requests   map[types.NamespacedName]*v1alpha1.CredentialRequest
	incomplete []string
}

// Read looks at what is in scope. What may not be read is left out, and told in the Report.
func Read(ctx context.Context, reader client.Reader, scope Scope) (Report, error) {
	const chunk = 500
	return read(ctx, reader, scope, chunk, time.Now())
}

func read(ctx context.Context, reader client.Reader, scope Scope, chunk int64, now time.Time) (Report, error) {
	s := survey{
		Reader: reader, scope: scope, chunk: chunk,
		targets: map[target]*Target{}, requests: map[types.NamespacedName]*v1alpha1.CredentialRequest{},
	}
	if err := s.readTargets(ctx); err != nil {
		return Report{}, err
	}
	s.anywhere = scope.Namespace == "" || len(s.targets) > 0
	if err := s.readRequests(ctx); err != nil {
		return Report{}, err
	}
	if err := s.readPods(ctx); err != nil {
		return Report{}, err
	}
	all, err := s.readLocks(ctx)
	if err != nil {
		return Report{}, err
	}
	report := Report{Targets: []Target{}, Incomplete: s.incomplete}
	for _, t := range s.targets {
		t.applyLocks(all, now)
		slices.SortFunc(t.Users, func(a, b User) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
		})
		report.Targets = append(report.Targets, *t)
	}
	slices.SortFunc(report.Targets, func(a, b Target) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(b.Kind, a.Kind))
	})
	return report, nil
}

// readTargets reads those that are in scope by themselves.
func (s *survey) readTargets(ctx context.Context) error {
	for _, name := range s.scope.Names {
		cluster := &v1alpha1.TargetCluster{}
		if err := s.Get(ctx, name, cluster); apierrors.IsNotFound(err) {
			return fmt.Errorf("there is no TargetCluster %s: kubectl get targetclusters -n %s lists them", name, name.Namespace)
		} else if err != nil {
			return fmt.Errorf("reading TargetCluster %s: %w", name, notInstalled(err))
		}
		s.add(cluster).inScope = true
	}
	if len(s.scope.Names) > 0 {
		return nil
	}
	err := each(ctx, s, s.scope.Namespace, func() *v1alpha1.TargetClusterList { return &v1alpha1.TargetClusterList{} }, func(list *v1alpha1.TargetClusterList) {
		for i := range list.Items {
			s.add(&list.Items[i]).inScope = true
		}
	})
	if apierrors.IsForbidden(err) {
		s.note("TargetClusters without users are omitted: %v", err)
		return nil
	}
	return notInstalled(err)
}

// notInstalled says what it means that there are no TargetClusters.
func notInstalled(err error) error {
	if meta.IsNoMatchError(err) {
		return errors.New("this cluster does not have the resource TargetCluster: install Keyferry, or select another cluster with --context")
	}
	return err
}

func (s *survey) add(cluster *v1alpha1.TargetCluster) *Target {
	status := cluster.Status
	t := &Target{
		Kind: KindTargetCluster, Namespace: cluster.Namespace, Name: cluster.Name,
		Endpoint: status.Endpoint, Delivery: string(status.Delivery), ServerVersion: status.ServerVersion, Users: []User{},
		objects: use.Of(cluster),
	}
	t.Ready, t.Reason, t.Message = Readiness(status.Conditions, status.ObservedGeneration < cluster.Generation)
	s.targets[target{KindTargetCluster, client.ObjectKeyFromObject(cluster)}] = t
	return t
}

// Readiness returns what the condition Ready says. stale means that the conditions describe an
// older spec.
func Readiness(conditions []metav1.Condition, stale bool) (ready metav1.ConditionStatus, reason, message string) {
	c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	if c == nil || stale {
		return metav1.ConditionUnknown, "NotLookedAt", "the controller has not reconciled the current spec yet"
	}
	return c.Status, c.Reason, c.Message
}

func (s *survey) readRequests(ctx context.Context) error {
	return s.readScoped("CredentialRequests", func(namespace string) error {
		return each(ctx, s, namespace, func() *v1alpha1.CredentialRequestList { return &v1alpha1.CredentialRequestList{} }, func(list *v1alpha1.CredentialRequestList) {
			for i := range list.Items {
				request := &list.Items[i]
				s.requests[client.ObjectKeyFromObject(request)] = request
				s.use(ctx, target{KindTargetCluster, types.NamespacedName(request.Spec.TargetCluster)}, requestUser(request))
			}
		})
	})
}

// readPods keeps of each Pod only what is told of it.
func (s *survey) readPods(ctx context.Context) error {
	parse := newParser()
	return s.readScoped("Pods", func(namespace string) error {
		return each(ctx, s, namespace, func() *corev1.PodList { return &corev1.PodList{} }, func(list *corev1.PodList) {
			for i := range list.Items {
				user, targets := podUser(&list.Items[i], s.requests, parse)
				for _, t := range targets {
					s.use(ctx, t, user)
				}
			}
		})
	})
}

// readScoped lists a kind: in all namespaces if a TargetCluster is in scope, whose users may be
// anywhere, and if that is allowed; else in the namespace in scope.
func (s *survey) readScoped(what string, list func(namespace string) error) error {
	namespace := s.scope.Namespace
	if s.anywhere {
		err := list(metav1.NamespaceAll)
		if !apierrors.IsForbidden(err) {
			return err
		}
		if namespace == "" {
			s.note("%s are left out: %v", what, err)
			return nil
		}
		s.note("%s of other namespaces than %s are left out: %v", what, namespace, err)
	}
	err := list(namespace)
	if apierrors.IsForbidden(err) {
		s.note("%s are left out: %v", what, err)
		return nil
	}
	return err
}

// use notes a user of a target, if one of them is in scope.
func (s *survey) use(ctx context.Context, t target, user User) {
	if known := s.targets[t]; known == nil || !known.inScope {
		if len(s.scope.Names) > 0 || s.scope.Namespace != "" && user.Namespace != s.scope.Namespace {
			return
		}
	}
	if s.targets[t] == nil {
		s.find(ctx, t)
	}
	s.targets[t].Users = append(s.targets[t].Users, user)
}

// find adds a target that is in scope because of a user.
func (s *survey) find(ctx context.Context, t target) {
	missing := &Target{Kind: t.kind, Namespace: t.Namespace, Name: t.Name, Ready: metav1.ConditionUnknown, Users: []User{}}
	s.targets[t] = missing
	switch t.kind {
	case KindTargetCluster:
		cluster := &v1alpha1.TargetCluster{}
		switch err := s.Get(ctx, t.NamespacedName, cluster); {
		case err == nil:
			s.add(cluster)
		case apierrors.IsNotFound(err):
			missing.Ready, missing.Reason, missing.Message = metav1.ConditionFalse, "NotFound", "there is no such TargetCluster"
		default:
			missing.Reason, missing.Message = "NotRead", err.Error()
			s.note("TargetCluster %s cannot be read: %v", t.NamespacedName, err)
		}
	case KindCredentialRequest:
		missing.Reason, missing.Message = "NotFound", "there is no such CredentialRequest, or it cannot be read"
	case KindClusterProfile:
		missing.Reason = "NotRead" // its cluster manager says how it is
		missing.objects = []use.Object{use.ClusterProfile(t.NamespacedName)}
	}
}

func (s *survey) note(format string, args ...any) {
	s.incomplete = append(s.incomplete, fmt.Sprintf(format, args...))
}

// each reads all objects of a kind in chunks, so that no answer is large. Where the API server has
// forgotten in between what it was asked, it goes on with what is there by now.
func each[L client.ObjectList](ctx context.Context, s *survey, namespace string, empty func() L, do func(L)) error {
	for next := ""; ; {
		list := empty()
		err := s.List(ctx, list, client.InNamespace(namespace), client.Limit(s.chunk), client.Continue(next))
		if apierrors.IsResourceExpired(err) {
			if status, ok := errors.AsType[*apierrors.StatusError](err); ok && status.ErrStatus.Continue != "" {
				next = status.ErrStatus.Continue
				continue
			}
		}
		if err != nil {
			return err
		}
		do(list)
		if next = list.GetContinue(); next == "" {
			return nil
		}
	}
}
