package mirror

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/use"
)

// server is an API server whose answers a test changes. It has no streaming lists, as old ones.
type server struct {
	client.WithWatch

	mu sync.Mutex
	// deny returns why a list in a namespace is denied.
	deny    func(list client.ObjectList, namespace string) error
	watches []watch.Interface
}

func (*server) IsWatchListSemanticsUnSupported() bool { return true }

func newServer(t *testing.T, objects ...client.Object) *server {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	s := &server{deny: func(client.ObjectList, string) error { return nil }}
	s.WithWatch = interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if err := s.denied(list, options); err != nil {
				return err
			}
			return c.List(ctx, list, options...)
		},
		Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) (watch.Interface, error) {
			if err := s.denied(list, options); err != nil {
				return nil, err
			}
			changes, err := c.Watch(ctx, list, options...)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.watches = append(s.watches, changes)
			return changes, err
		},
	})
	return s
}

func (s *server) denied(list client.ObjectList, options []client.ListOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deny(list, (&client.ListOptions{}).ApplyOptions(options).Namespace)
}

// change sets the answers, and ends all watches, as a server that restarts.
func (s *server) change(deny func(client.ObjectList, string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deny = deny
	for _, w := range s.watches {
		w.Stop()
	}
	s.watches = nil
}

func forbidden() error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no"))
}

// start runs a Mirror until the test ends, inside a bubble of synctest.
func start(t *testing.T, s *server, namespace string) *Mirror {
	t.Helper()
	m, err := New(Config{Client: s, Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	if err := m.Listed(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *Mirror) stateOf(plural string) State {
	states := m.States()
	return states[slices.IndexFunc(states, func(s State) bool { return s.Kind == plural })]
}

func podNames(t *testing.T, m *Mirror) string {
	t.Helper()
	list := &corev1.PodList{}
	if err := m.List(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Namespace+"/"+list.Items[i].Name)
	}
	return strings.Join(names, " ")
}

func newPod(namespace, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name,
			Annotations: map[string]string{injector.AnnotationStatus: `{"clusters":["fleet/a"]}`, "other": "kept-to-itself"},
			Labels:      map[string]string{"app": "kept-to-itself", labelTemplateHash: "5d4f"},

			OwnerReferences: []metav1.OwnerReference{
				{Kind: "Other", Name: "kept-to-itself"}, {Kind: "ReplicaSet", Name: "web-5d4f", Controller: ptr.To(true)},
			},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "web",
			Containers:         []corev1.Container{{Name: "app", Env: []corev1.EnvVar{{Name: "PASSWORD", Value: "kept-to-itself"}}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning,
			InitContainerStatuses: []corev1.ContainerStatus{
				{Name: "kept-to-itself"}, {Name: injector.RefresherContainer, Image: "kept-to-itself", Started: ptr.To(true)},
			},
		},
	}
}

// TestTrim: of a Pod, nothing stays in memory that no page shows, such as the values of variables.
func TestTrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := newPod("app", "plain")
		plain.Annotations = nil
		m := start(t, newServer(t, newPod("app", "web"), plain), "")
		var got corev1.Pod
		if err := m.Get(t.Context(), client.ObjectKey{Namespace: "app", Name: "web"}, &got); err != nil {
			t.Fatal(err)
		}
		if text := got.String(); strings.Contains(text, "kept-to-itself") {
			t.Errorf("it keeps %s", text)
		}
		if got.Spec.ServiceAccountName != "web" || got.Labels[labelTemplateHash] != "5d4f" || len(got.OwnerReferences) != 1 ||
			got.Annotations[injector.AnnotationStatus] == "" || len(got.Status.InitContainerStatuses) != 1 || got.Status.Phase != corev1.PodRunning {
			t.Errorf("it lacks what pages show: %v", &got)
		}
		if names := podNames(t, m); names != "app/web" {
			t.Errorf("it has the Pods %s", names)
		}
	})
}

// TestTrimOthers: only the Events of Keyferry, and rules that may allow the use of a target, stay.
func TestTrimOthers(t *testing.T) {
	allowed := use.Role(use.TargetCluster(client.ObjectKey{Namespace: "fleet", Name: "a"}))
	kept := len(allowed.Rules)
	allowed.Annotations = map[string]string{annotationLastApplied: "{}", "other": "x"}
	allowed.Rules = append(allowed.Rules, rbacv1.PolicyRule{Verbs: []string{"get"}, Resources: []string{"pods"}})
	if role, ok := trimRole(allowed).(*rbacv1.Role); !ok || len(role.Rules) != kept || len(role.Annotations) != 1 {
		t.Errorf("the Role is %v", role)
	}
	if got := trimRole(&rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}}}}); got != nil {
		t.Errorf("an unrelated ClusterRole is kept: %v", got)
	}
	if got := trimRole(&rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{{Verbs: []string{"*"}}}}); got == nil {
		t.Error("a ClusterRole with all verbs is not kept")
	}
	if got := trimEvent(&eventsv1.Event{ReportingController: "kubelet", Regarding: corev1.ObjectReference{Kind: "Node"}}); got != nil {
		t.Errorf("an Event of another program is kept: %v", got)
	}
}

// TestChanges: watches bring new, changed and deleted Pods, and each is a change. Pods that use no
// target are none.
func TestChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		m := start(t, s, "")
		synctest.Wait()
		do := func(what, want string, isChange bool, change func() error) {
			t.Helper()
			before := m.Changed()
			if err := change(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if names := podNames(t, m); names != want {
				t.Errorf("%s: it has the Pods %q", what, names)
			}
			if changed := before != m.Changed(); changed != isChange {
				t.Errorf("%s: a change: %t", what, changed)
			}
		}
		pod, plain := newPod("app", "web"), newPod("app", "plain")
		plain.Annotations = nil
		do("created", "app/web", true, func() error { return s.Create(t.Context(), pod) })
		do("created without a target", "app/web", false, func() error { return s.Create(t.Context(), plain) })
		pod.Annotations = nil
		do("uses no target any more", "", true, func() error { return s.Update(t.Context(), pod) })
		pod.Annotations = map[string]string{injector.AnnotationStatus: "{}"}
		do("uses one again", "app/web", true, func() error { return s.Update(t.Context(), pod) })
		do("deleted", "", true, func() error { return s.Delete(t.Context(), pod) })
	})
}

// TestDenied: a kind that may not be listed is denied, the others are listed, and a right that is
// granted later has an effect.
func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newPod("app", "web"))
		noPods := func(list client.ObjectList, _ string) error {
			if _, isPods := list.(*corev1.PodList); isPods {
				return forbidden()
			}
			return nil
		}
		s.change(noPods)
		m := start(t, s, "app")
		state := m.stateOf("Pods")
		if !apierrors.IsForbidden(state.Denied) || state.Lost != nil {
			t.Errorf("got %+v", state)
		}
		if err := m.List(t.Context(), &corev1.PodList{}); !apierrors.IsForbidden(err) {
			t.Errorf("listing Pods: %v", err)
		}
		if err := m.List(t.Context(), &rbacv1.RoleList{}); err != nil {
			t.Errorf("listing Roles: %v", err)
		}
		s.change(func(client.ObjectList, string) error { return nil })
		<-time.After(askAgain)
		synctest.Wait()
		if names := podNames(t, m); names != "app/web" || m.stateOf("Pods").Denied != nil {
			t.Errorf("after the grant: %q, %+v", names, m.stateOf("Pods"))
		}
	})
}

// TestOneNamespace: without the right to list all namespaces, it shows the user's own.
func TestOneNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newPod("app", "web"), newPod("other", "web"))
		s.change(func(_ client.ObjectList, namespace string) error {
			if namespace != "app" {
				return forbidden()
			}
			return nil
		})
		m := start(t, s, "app")
		if names := podNames(t, m); names != "app/web" || m.stateOf("Pods").Namespace != "app" {
			t.Errorf("%q, %+v", names, m.stateOf("Pods"))
		}
		if m.stateOf("ClusterRoles").Denied == nil {
			t.Error("a kind without namespaces was listed in one")
		}
		if err := m.Get(t.Context(), client.ObjectKey{Namespace: "other", Name: "web"}, &corev1.Pod{}); !apierrors.IsForbidden(err) {
			t.Errorf("a Pod elsewhere: %v", err)
		}
	})
}

// TestReconnect: while the API server does not answer, the last known objects stay; afterwards
// what has changed is read.
func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newPod("app", "web"))
		m := start(t, s, "")
		synctest.Wait()
		lost := errors.New("connection refused")
		s.change(func(client.ObjectList, string) error { return lost })
		begin := time.Now()
		<-time.After(time.Minute)
		synctest.Wait()
		state := m.stateOf("Pods")
		if !errors.Is(state.Lost, lost) || state.LostSince.Sub(begin) > 10*time.Second {
			t.Errorf("while it is lost: %+v", state)
		}
		if names := podNames(t, m); names != "app/web" {
			t.Errorf("while it is lost: %q", names)
		}
		if err := errors.Join(s.Delete(t.Context(), newPod("app", "web")), s.Create(t.Context(), newPod("app", "next"))); err != nil {
			t.Fatal(err)
		}
		s.change(func(client.ObjectList, string) error { return nil })
		for next := m.Changed(); m.stateOf("Pods").Lost != nil || podNames(t, m) != "app/next"; next = m.Changed() {
			<-next
		}
		if after := time.Since(begin) - time.Minute; after > 15*time.Second { // two of the longest back-offs
			t.Errorf("it connects after %s", after)
		}
	})
}

// TestUnreachable: a server that never answered is an error, and not an empty page.
func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.change(func(client.ObjectList, string) error { return errors.New("connection refused") })
		m, err := New(Config{Client: s})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go m.Run(ctx)
		if err := m.Listed(ctx); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("got %v", err)
		}
		if err := m.List(ctx, &corev1.SecretList{}); err == nil {
			t.Error("Secrets are listed")
		}
		cancel()
		synctest.Wait()
	})
}
