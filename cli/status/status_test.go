package status

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/terminal"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
)

var update = flag.Bool("update", false, "write the golden files anew")

var server *rest.Config

// now is a time in the tests; credentials end at about it.
var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		server = cfg
		if err := setUp(newClient(cfg)); err != nil {
			panic(err)
		}
	}))
}

func newClient(cfg *rest.Config) client.Client {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		panic(err)
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		panic(err)
	}
	return c
}

// setUp makes what all tests look at: TargetClusters in the namespace fleet, and their users in app
// and jobs.
func setUp(c client.Client) error {
	for _, namespace := range []string{"fleet", "app", "jobs", "empty"} {
		if err := c.Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
			return err
		}
	}
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready", Message: "all is well"}
	down := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "Unreachable", Message: "dial tcp 203.0.113.8:6443: i/o timeout"}
	running := corev1.PodStatus{Phase: corev1.PodRunning, InitContainerStatuses: []corev1.ContainerStatus{{
		Name: injector.RefresherContainer, Started: ptr.To(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
	}}}
	failing := corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{{
		Name:                 injector.RefresherContainer,
		State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 20s"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: "the broker refuses it: no use\n"}},
	}}}
	return errors.Join(
		targetCluster(c, "tenant-1", ready), targetCluster(c, "tenant-2", down), targetCluster(c, "tenant-3"),
		request(c, "metrics", "tenant-1", ready, now.Add(42*time.Minute)),
		request(c, "stuck", "tenant-2", down, now.Add(-5*time.Minute)),
		pod(c, "app", "web", `{"clusters": ["fleet/tenant-1"], "delivery": "Direct", "containers": ["app"]}`, running),
		pod(c, "app", "web-2", `{"clusters": ["fleet/tenant-2", "fleet/tenant-1"], "delivery": "Proxy", "containers": ["app"]}`, failing),
		pod(c, "app", "metrics", `{"credentialRequest": "metrics", "delivery": "Secret", "containers": ["app"]}`, corev1.PodStatus{Phase: corev1.PodRunning}),
		pod(c, "app", "lost", `{"credentialRequest": "lost", "delivery": "Secret", "containers": ["app"]}`, corev1.PodStatus{Phase: corev1.PodPending}),
		pod(c, "app", "profiled", `{"clusterProfile": "fleet/member", "delivery": "Direct", "containers": ["app"]}`, running),
		pod(c, "app", "gone", `{"clusters": ["fleet/gone"], "delivery": "Direct", "containers": ["app"]}`, corev1.PodStatus{Phase: corev1.PodPending}),
		pod(c, "app", "ended", `{"clusters": ["fleet/tenant-1"], "delivery": "Direct", "containers": ["app"]}`, corev1.PodStatus{Phase: corev1.PodSucceeded}),
		pod(c, "app", "spoilt", `{`, running),
		pod(c, "app", "other", "", running),
		pod(c, "jobs", "federated", `{"clusters": ["fleet/tenant-1"], "delivery": "Federation", "containers": ["app"]}`, corev1.PodStatus{Phase: corev1.PodRunning}),
	)
}

func targetCluster(c client.Client, name string, conditions ...metav1.Condition) error {
	cluster := &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "x"}},
			Issue:  v1alpha1.Issue{Type: v1alpha1.IssueAccess},
		},
	}
	if err := c.Create(context.Background(), cluster); err != nil || len(conditions) == 0 {
		return err
	}
	cluster.Status = v1alpha1.TargetClusterStatus{
		ObservedGeneration: cluster.Generation, Endpoint: "https://" + name + ".example.com:6443", Delivery: v1alpha1.DeliveryDirect, ServerVersion: "v1.36.3", Conditions: at(conditions),
	}
	return c.Status().Update(context.Background(), cluster)
}

func at(conditions []metav1.Condition) []metav1.Condition {
	conditions = slices.Clone(conditions)
	for i := range conditions {
		conditions[i].LastTransitionTime = metav1.NewTime(now)
	}
	return conditions
}

func request(c client.Client, name, target string, ready metav1.Condition, ends time.Time) error {
	r := &v1alpha1.CredentialRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name},
		Spec: v1alpha1.CredentialRequestSpec{
			TargetCluster: v1alpha1.ObjectReference{Namespace: "fleet", Name: target}, ServiceAccountName: "robot",
			Type: v1alpha1.CredentialTokenFile, Secret: v1alpha1.CredentialSecret{Name: name},
		},
	}
	if err := c.Create(context.Background(), r); err != nil {
		return err
	}
	r.Status = v1alpha1.CredentialRequestStatus{
		ObservedGeneration: r.Generation, ExpirationTimestamp: ptr.To(metav1.NewTime(ends)), RenewAt: ptr.To(metav1.NewTime(ends.Add(-10 * time.Minute))),
		Conditions: at([]metav1.Condition{ready}),
	}
	return c.Status().Update(context.Background(), r)
}

func pod(c client.Client, namespace, name, injected string, status corev1.PodStatus) error {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}, ServiceAccountName: "web"},
	}
	if injected != "" {
		p.Annotations = map[string]string{injector.AnnotationStatus: injected}
	}
	if err := c.Create(context.Background(), p); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p.Status = status
	return c.Status().Update(context.Background(), p)
}

func TestText(t *testing.T) {
	for name, scope := range map[string]Scope{
		"everywhere":   {},
		"users":        {Namespace: "app"},
		"targets":      {Namespace: "fleet"},
		"elsewhere":    {Namespace: "jobs"},
		"nothing":      {Namespace: "empty"},
		"one":          {Namespace: "app", Names: []types.NamespacedName{{Namespace: "fleet", Name: "tenant-2"}}},
		"without-user": {Names: []types.NamespacedName{{Namespace: "fleet", Name: "tenant-3"}}},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := Read(t.Context(), newClient(server), scope)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := report.WriteText(&got, terminal.Palette{}, now); err != nil {
				t.Fatal(err)
			}
			file := "testdata/" + name + ".golden"
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) || len(report.Incomplete) > 0 {
				t.Errorf("%s differs (go test -update writes it anew); incomplete: %q; got:\n%s", file, report.Incomplete, got.String())
			}
		})
	}
}

func TestReadInChunks(t *testing.T) {
	want, err := Read(t.Context(), newClient(server), Scope{})
	if err != nil {
		t.Fatal(err)
	}
	lists := &forgetful{Client: newClient(server)}
	got, err := read(t.Context(), lists, Scope{}, 2, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if lists.pods < 5 || lists.expired != 1 {
		t.Errorf("Pods were listed %d times, and the list was forgotten %d times", lists.pods, lists.expired)
	}
}

// forgetful is an API server that has forgotten the list of Pods once when it is to go on with it,
// and says how to go on nevertheless.
type forgetful struct {
	client.Client
	pods, expired int
}

func (f *forgetful) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	if _, ok := list.(*corev1.PodList); ok {
		f.pods++
		with := (&client.ListOptions{}).ApplyOptions(options)
		if with.Continue != "" && f.expired == 0 {
			f.expired++
			gone := apierrors.NewResourceExpired("the continue token is too old")
			gone.ErrStatus.Continue = with.Continue
			return gone
		}
	}
	return f.Client.List(ctx, list, options...)
}

// TestRights: what somebody may not read is left out, and said.
func TestRights(t *testing.T) {
	admin := newClient(server)
	grant := func(user, namespace string, rules ...rbacv1.PolicyRule) {
		t.Helper()
		subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}}
		for _, o := range []client.Object{
			&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: user}, Rules: rules},
			&rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: user}, Subjects: subjects,
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
			},
		} {
			if err := admin.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	lists := func(group, resource string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{"list"}}
	}
	grant("developer", "app", lists("", "pods"), lists("keyferry.dev", "credentialrequests"), lists("keyferry.dev", "targetclusters"), lists("keyferry.dev", "locks"))
	grant("developer", "fleet", rbacv1.PolicyRule{APIGroups: []string{"keyferry.dev"}, Resources: []string{"targetclusters"}, ResourceNames: []string{"tenant-1"}, Verbs: []string{"get"}})
	as := func(user string) client.Client {
		cfg := rest.CopyConfig(server)
		cfg.Impersonate.UserName = user
		return newClient(cfg)
	}
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		mine := as("developer")
		err := errors.Join(mine.List(ctx, &corev1.PodList{}, client.InNamespace("app")), mine.Get(ctx, types.NamespacedName{Namespace: "fleet", Name: "tenant-1"}, &v1alpha1.TargetCluster{}))
		return err == nil, nil
	})
	if err != nil {
		t.Fatal("the rights are not there: ", err)
	}

	told := func(scope Scope, want ...string) Report {
		t.Helper()
		report, err := Read(t.Context(), as("developer"), scope)
		if err != nil {
			t.Fatal(err)
		}
		if len(report.Incomplete) != len(want) {
			t.Errorf("incomplete: %q", report.Incomplete)
		}
		for _, begin := range want {
			if !slices.ContainsFunc(report.Incomplete, func(note string) bool { return strings.HasPrefix(note, begin) }) {
				t.Errorf("there is no %q in %q", begin, report.Incomplete)
			}
		}
		return report
	}
	// Of the own namespace, no right elsewhere is missed but those to read TargetClusters.
	report := told(Scope{Namespace: "app"}, "TargetCluster fleet/tenant-2 cannot be read: ", "TargetCluster fleet/gone cannot be read: ", "ClusterLocks are left out: ")
	i := slices.IndexFunc(report.Targets, func(t Target) bool { return t.Name == "tenant-1" })
	if i < 0 || report.Targets[i].Ready != metav1.ConditionTrue || len(report.Targets[i].Users) != 4 {
		t.Errorf("got %+v", report.Targets)
	}
	// Who uses a TargetCluster is told as far as it is known.
	report = told(Scope{Namespace: "app", Names: []types.NamespacedName{{Namespace: "fleet", Name: "tenant-1"}}},
		"CredentialRequests of other namespaces than app are left out: ", "Pods of other namespaces than app are left out: ",
		"Locks of other namespaces than app are left out: ", "ClusterLocks are left out: ")
	if len(report.Targets) != 1 || len(report.Targets[0].Users) != 4 {
		t.Errorf("got %+v", report.Targets)
	}

	report, err = Read(t.Context(), as("nobody"), Scope{})
	if err != nil || len(report.Targets) > 0 || len(report.Incomplete) != 5 {
		t.Errorf("who may read nothing is told %+v, %v", report, err)
	}
	report, err = Read(t.Context(), as("nobody"), Scope{Namespace: "app"})
	if err != nil || len(report.Targets) > 0 || len(report.Incomplete) != 5 {
		t.Errorf("who may read nothing is told %+v, %v", report, err)
	}
}

// TestLocks: targets and users that a lock denies are not ready, and their messages name the lock.
func TestLocks(t *testing.T) {
	c := newClient(server)
	terms := v1alpha1.LockTerms{Reason: "incident 7"}
	expired := v1alpha1.LockTerms{Reason: "incident 6", ExpirationTimestamp: &metav1.Time{Time: now}}
	lock := func(namespace, name string, terms v1alpha1.LockTerms, subject v1alpha1.LockSubject) client.Object {
		return &v1alpha1.Lock{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1alpha1.LockSpec{Subject: subject, LockTerms: terms}}
	}
	for _, o := range []client.Object{
		lock("fleet", "target", terms, v1alpha1.LockSubject{Type: v1alpha1.LockTargetCluster, Name: "tenant-2"}),
		lock("fleet", "expired", expired, v1alpha1.LockSubject{Type: v1alpha1.LockTargetCluster, Name: "tenant-1"}),
		lock("app", "pod", terms, v1alpha1.LockSubject{Type: v1alpha1.LockPod, Name: "web"}),
		&v1alpha1.ClusterLock{ObjectMeta: metav1.ObjectMeta{Name: "profile"}, Spec: v1alpha1.ClusterLockSpec{
			Subject: v1alpha1.ClusterLockSubject{Type: v1alpha1.LockClusterProfile, Namespace: "fleet", Name: "member"}, LockTerms: terms,
		}},
	} {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
	}
	report, err := read(t.Context(), c, Scope{}, 2, now)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, target := range report.Targets {
		if target.Reason == v1alpha1.ReasonLocked && target.Ready == metav1.ConditionFalse && strings.Contains(target.Message, "is locked by") {
			got = append(got, target.String())
		}
		for _, user := range target.Users {
			if user.State == v1alpha1.ReasonLocked && strings.Contains(user.Message, "is locked by") {
				got = append(got, target.String()+": "+user.String())
			}
		}
	}
	want := []string{
		"ClusterProfile fleet/member", "ClusterProfile fleet/member: Pod app/profiled",
		"fleet/tenant-1: Pod app/web",
		"fleet/tenant-2", "fleet/tenant-2: CredentialRequest app/stuck", "fleet/tenant-2: Pod app/web-2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("locked are %q, want %q", got, want)
	}
	var text bytes.Buffer
	if err := report.WriteText(&text, terminal.Palette{}, now); err != nil {
		t.Fatal(err)
	}
	if named := strings.Count(text.String(), "TargetCluster fleet/tenant-2 is locked by Lock fleet/target: incident 7"); named != 1 {
		t.Errorf("the lock of the target is named %d times:\n%s", named, text.String())
	}
}

func TestRefused(t *testing.T) {
	_, err := Read(t.Context(), newClient(server), Scope{Names: []types.NamespacedName{{Namespace: "fleet", Name: "tenant-9"}}})
	if err == nil || err.Error() != "there is no TargetCluster fleet/tenant-9: kubectl get targetclusters -n fleet lists them" {
		t.Errorf("got %v", err)
	}
	missing := &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "keyferry.dev", Kind: "TargetCluster"}}
	if err := notInstalled(missing); !strings.Contains(err.Error(), "install Keyferry") {
		t.Errorf("got %v", err)
	}
}
