package dashboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/use"
)

func newFakeClient(t testing.TB, objects []client.Object, denied ...string) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return listingClient{interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			for _, kind := range denied {
				if strings.HasSuffix(fmt.Sprintf("%T", list), "."+kind+"List") {
					return apierrors.NewForbidden(schema.GroupResource{Resource: strings.ToLower(kind) + "s"}, "", errors.New("no"))
				}
			}
			return c.List(ctx, list, options...)
		},
	})}
}

// listingClient has no streaming lists, as old API servers.
type listingClient struct{ client.WithWatch }

func (listingClient) IsWatchListSemanticsUnSupported() bool { return true }

func newTestDashboard(t testing.TB, objects []client.Object, denied ...string) *Dashboard {
	t.Helper()
	d, err := New(Config{
		Client: newFakeClient(t, objects, denied...), Cluster: "management",
		CheckPod: func(context.Context, types.NamespacedName) check.Report {
			return check.Report{Checks: []check.Finding{{Check: "sidecar", Result: check.Wrong, Message: "it <b>failed</b>"}}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// hostile is what users can write into names that no one checks, and into messages.
const hostile = `<script>alert(1)</script><img src=x onerror=alert(2)>" onmouseover="alert(3) javascript:alert(4) ` + "\u202etxt.exe\u202c\x00\x1b[31m"

func injected(namespace, name, status string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{injector.AnnotationStatus: status}},
		Spec:       corev1.PodSpec{ServiceAccountName: "web"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, InitContainerStatuses: []corev1.ContainerStatus{{
			Name: injector.RefresherContainer, Started: ptr.To(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}},
	}
}

func objects() []client.Object {
	target := &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "a"},
		Status: v1alpha1.TargetClusterStatus{Endpoint: hostile, ServerVersion: hostile, DeliveryReason: hostile, Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "Unreachable", Message: hostile},
		}},
	}
	allowed := use.TargetCluster(types.NamespacedName{Namespace: "fleet", Name: "a"})
	waiting := injected("app", "waits", `{"clusters":["fleet/a"],"delivery":"Direct"}`)
	waiting.Status.InitContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: hostile}}
	return []client.Object{
		target, use.Role(allowed), use.Binding(types.NamespacedName{Namespace: "app", Name: "web"}, allowed), waiting,
		injected("app", "web", `{"clusters":["fleet/a"],"delivery":"Direct"}`),
		injected("other", "web", fmt.Sprintf(`{"clusters":[%q],"clusterProfile":%q,"credentialRequest":%q,"delivery":%q}`, hostile, hostile, "<i>", hostile)),
		&v1alpha1.CredentialRequest{
			ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "r"},
			Spec:       v1alpha1.CredentialRequestSpec{TargetCluster: v1alpha1.ObjectReference{Namespace: "fleet", Name: "a"}, ServiceAccountName: "web"},
			Status:     v1alpha1.CredentialRequestStatus{ExpirationTimestamp: ptr.To(metav1.NewTime(time.Unix(2e9, 0)))},
		},
		&eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "e"}, ReportingController: "keyferry-controller", Reason: hostile, Note: hostile, Type: "Warning",
			Regarding: corev1.ObjectReference{Kind: "TargetCluster", Namespace: "fleet", Name: "a"},
		},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "a"}, Data: map[string][]byte{"token": []byte("kept-to-itself")}},
	}
}

// running runs a dashboard until the test ends, and returns a client that is signed in.
func running(t testing.TB, d *Dashboard) func(method, path string) *httptest.ResponseRecorder {
	t.Helper()
	get, stop := start(t, d)
	t.Cleanup(stop)
	return get
}

// start runs a dashboard until stop is called, and returns a client that is signed in.
func start(t testing.TB, d *Dashboard) (get func(method, path string) *httptest.ResponseRecorder, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	if err := d.Listed(t.Context()); err != nil {
		t.Fatal(err)
	}
	for s := (*snapshot)(nil); s == nil || len(s.Targets) == 0 && len(s.Notices) == 0; {
		var changed <-chan struct{}
		if changed, s, _ = d.latest.get(); s == nil || len(s.Targets) == 0 && len(s.Notices) == 0 {
			<-changed
		}
	}
	g := newGuard("8150")
	pages, err := newPages(d, g.base)
	if err != nil {
		t.Fatal(err)
	}
	g.refuse, g.welcome = pages.refuse, pages.welcome
	handler := g.protect(pages.handler())
	session := signIn(t, g, handler)
	get = func(method, path string) *httptest.ResponseRecorder {
		return send(handler, method, "http://127.0.0.1:8150"+g.base+path, func(r *http.Request) {
			session(r)
			r.Header.Set("Origin", "http://127.0.0.1:8150")
		})
	}
	return get, stop
}

// TestMarkupInNames: everything that users can name is text, on each page and in the export.
func TestMarkupInNames(t *testing.T) {
	d := newTestDashboard(t, objects())
	get := running(t, d)
	texts := map[string]string{}
	for _, path := range []string{"", "?q=%3Cscript%3Ealert(1)", "expiry", "access", "events", "targets/fleet/a", "pods/app/waits", "pods/other/web", "credentialrequests/app/r", "credentialrequests/other/%3Ci%3E"} {
		texts[path] = get(http.MethodGet, path).Body.String()
	}
	texts["check"] = get(http.MethodPost, "pods/app/web/check").Body.String()
	var export bytes.Buffer
	if err := d.Export(t.Context(), &export); err != nil {
		t.Fatal(err)
	}
	texts["export"] = export.String()
	for path, text := range texts {
		if !strings.Contains(text, "</html>") {
			t.Errorf("%s is no whole page: %.300s", path, text)
		}
		for _, bad := range []string{"<script>alert", "<img src=x", `" onmouseover`, "<b>failed", `href="javascript:`, "\u202e", "\x1b", "\x00", "ZgotmplZ", "kept-to-itself"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s contains %q", path, bad)
			}
		}
	}
	if !strings.Contains(texts["targets/fleet/a"], "&lt;script&gt;alert(1)") {
		t.Error("the message is not on the page")
	}
}

// TestExportLoadsNothing: it is one file, with a policy of its own.
func TestExportLoadsNothing(t *testing.T) {
	d := newTestDashboard(t, objects())
	running(t, d)
	var export bytes.Buffer
	if err := d.Export(t.Context(), &export); err != nil {
		t.Fatal(err)
	}
	text := export.String()
	for _, bad := range []string{"<script", `src="http`, `href="http`, `href="/`, "url(", "unsafe-inline", "@import"} {
		if strings.Contains(text, bad) {
			t.Errorf("it contains %s", bad)
		}
	}
	for _, part := range []string{"default-src 'none'; style-src 'sha256-", `id="page/targets/fleet/a"`, `href="#page/targets/fleet/a"`, "app/</span>waits"} {
		if !strings.Contains(text, part) {
			t.Errorf("it lacks %s", part)
		}
	}
	seen := map[string]bool{}
	for _, part := range strings.Split(text, ` id="`)[1:] {
		id, _, _ := strings.Cut(part, `"`)
		if seen[id] {
			t.Errorf("the id %s is there twice", id)
		}
		seen[id] = true
	}
}

// TestUnknown: what the user may not list is unknown, and not an error page.
func TestUnknown(t *testing.T) {
	get := running(t, newTestDashboard(t, objects(), "Pod", "Event", "ClusterRoleBinding"))
	for path, want := range map[string][]string{
		"":                {"Pods: unknown", "you may not list Pods", "fleet/</span>a"},
		"targets/fleet/a": {"Unknown: you may not list Pods.", "Unknown: grants may be missing here.", "app/web"},
		"events":          {"Unknown: you may not list Events."},
		"access":          {"Unknown: grants may be missing here."},
		"pods/app/web":    {"or you may not read it"},
	} {
		w := get(http.MethodGet, path)
		for _, part := range want {
			if !strings.Contains(w.Body.String(), part) {
				t.Errorf("%q lacks %q:\n%s", path, part, w.Body)
			}
		}
	}
	if w := get(http.MethodGet, "nothing"); w.Code != http.StatusNotFound {
		t.Errorf("no such page: %d", w.Code)
	}
}

// TestLocks: the page has each lock with its subject, its reason and its expiry, and says what may
// be missing.
func TestLocks(t *testing.T) {
	locked := append(objects(),
		&v1alpha1.Lock{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "l"}, Spec: v1alpha1.LockSpec{
			Subject:   v1alpha1.LockSubject{Type: v1alpha1.LockServiceAccount, Name: "web"},
			LockTerms: v1alpha1.LockTerms{Reason: "incident " + hostile, ExpirationTimestamp: ptr.To(metav1.NewTime(time.Unix(1e9, 0)))},
		}},
		&v1alpha1.ClusterLock{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: v1alpha1.ClusterLockSpec{
			Subject: v1alpha1.ClusterLockSubject{Type: v1alpha1.LockEverything}, LockTerms: v1alpha1.LockTerms{Reason: "stop"},
		}},
	)
	get := running(t, newTestDashboard(t, locked))
	for path, want := range map[string][]string{
		"access":                 {"Lock app/l", "ServiceAccount app/web", "incident &lt;script&gt;", "(expired)", "ClusterLock c", "the cluster", "never"},
		"access?namespace=other": {"ClusterLock c"},
		"targets/fleet/a":        {"Locked", "stop"},
	} {
		text := get(http.MethodGet, path).Body.String()
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("%s lacks %q", path, part)
			}
		}
		if strings.Contains(path, "other") && strings.Contains(text, "Lock app/l") {
			t.Errorf("%s has a lock of another namespace", path)
		}
	}
	if text := running(t, newTestDashboard(t, locked, "ClusterLock"))(http.MethodGet, "access").Body.String(); !strings.Contains(text, "locks may be missing here") {
		t.Error("locks that may not be listed are not unknown")
	}
}

// TestMayUse: a user without a grant stands out, also if the grant was revoked.
func TestMayUse(t *testing.T) {
	all := objects()
	for i, o := range all {
		if binding, ok := o.(*rbacv1.RoleBinding); ok {
			binding.Subjects[0].Name = "somebody"
			all[i] = binding
		}
	}
	get := running(t, newTestDashboard(t, all))
	if text := get(http.MethodGet, "access").Body.String(); !strings.Contains(text, "May not use their target any more") {
		t.Errorf("got %s", text)
	}
	if text := running(t, newTestDashboard(t, objects()))(http.MethodGet, "targets/fleet/a").Body.String(); strings.Contains(text, `<span class="pill bad"><span class="badge bad" aria-hidden="true">!</span>no</span>`) {
		t.Error("a user with a grant may not use the target")
	}
}

// TestReadsNoSecret: it neither lists, watches nor reads a Secret, also not for the page of an
// object, a check or an export.
func TestReadsNoSecret(t *testing.T) {
	var mu sync.Mutex
	read := map[string]bool{}
	note := func(o runtime.Object) {
		mu.Lock()
		defer mu.Unlock()
		read[strings.TrimSuffix(fmt.Sprintf("%T", o), "List")] = true
	}
	d, err := New(Config{
		Client: listingClient{interceptor.NewClient(newFakeClient(t, objects()), interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
				note(o)
				return c.Get(ctx, key, o, options...)
			},
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
				note(list)
				return c.List(ctx, list, options...)
			},
			Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) (watch.Interface, error) {
				note(list)
				return c.Watch(ctx, list, options...)
			},
		})},
		CheckPod: func(context.Context, types.NamespacedName) check.Report { return check.Report{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	get := running(t, d)
	for _, path := range []string{"", "expiry", "access", "events", "targets/fleet/a", "pods/app/waits", "credentialrequests/app/r"} {
		if w := get(http.MethodGet, path); w.Code != http.StatusOK {
			t.Errorf("%q: %d", path, w.Code)
		}
	}
	get(http.MethodPost, "pods/app/web/check")
	if err := d.Export(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []string{
		"*v1.ClusterRole", "*v1.ClusterRoleBinding", "*v1.Event", "*v1.Pod", "*v1.Role", "*v1.RoleBinding",
		"*v1alpha1.ClusterLock", "*v1alpha1.CredentialRequest", "*v1alpha1.Lock", "*v1alpha1.TargetCluster",
	}
	if got := slices.Sorted(maps.Keys(read)); !slices.Equal(got, want) {
		t.Errorf("it reads %q", got)
	}
}
