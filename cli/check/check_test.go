package check

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/exec"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/terminal"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
)

var server *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { server = cfg }))
}

// world is a namespace with everything that a Pod needs, and the Pod.
type world struct {
	t       *testing.T
	client  client.Client
	cluster *v1alpha1.TargetCluster
	pod     *corev1.Pod
	exec    Exec
}

func newClient(t *testing.T, as string) client.Client {
	t.Helper()
	cfg := rest.CopyConfig(server)
	cfg.Impersonate.UserName = as
	return testenv.NewClient(t, cfg)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, client: newClient(t, ""), exec: func(context.Context, types.NamespacedName, string, ...string) (string, error) { return "", nil }}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}}
	w.create(namespace)
	ns := namespace.Name
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}})
	w.create(&rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "use"},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"use"}, APIGroups: []string{"keyferry.dev"}, Resources: []string{"targetclusters"}, ResourceNames: []string{"tenant-1"}}},
	})
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "use"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "use"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: "web"}},
	})
	w.cluster = &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "tenant-1"},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "x"}},
			Issue:  v1alpha1.Issue{Type: v1alpha1.IssueAccess},
		},
	}
	w.create(w.cluster)
	w.status(map[string]metav1.Condition{})

	w.inject(map[string]string{injector.AnnotationCluster: "tenant-1"}, direct)
	return w
}

// direct is a target that Pods reach without a proxy.
var direct = injector.Target{Endpoint: "https://203.0.113.7:6443", Delivery: "Direct"}

// inject makes the Pod as the webhook does.
func (w *world) inject(annotations map[string]string, target injector.Target) {
	w.t.Helper()
	w.pod = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.cluster.Namespace, Name: "web-1", Annotations: annotations},
		Spec:       corev1.PodSpec{ServiceAccountName: "web", Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	raw, err := json.Marshal(w.pod)
	w.must(err)
	view, err := injector.DecodePod(raw)
	w.must(err)
	requested, err := injector.ParseAnnotations(annotations, w.cluster.Namespace)
	w.must(err)
	result, err := injector.Inject(view, requested, target, injector.Config{Image: "refresher", BrokerURL: "https://broker", EnvFromFile: true})
	w.must(err)
	operations, err := json.Marshal(result.Operations)
	w.must(err)
	patch, err := jsonpatch.DecodePatch(operations)
	w.must(err)
	patched, err := patch.Apply(raw)
	w.must(err)
	w.must(json.Unmarshal(patched, w.pod))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	if err := w.client.Create(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
}

// status writes conditions as controller and broker do: all well, but for those given.
func (w *world) status(but map[string]metav1.Condition) {
	w.t.Helper()
	all := map[string]metav1.Condition{
		v1alpha1.ConditionResolved:  {Status: metav1.ConditionTrue, Reason: "Resolved", Message: "makes sense"},
		v1alpha1.ConditionReachable: {Status: metav1.ConditionTrue, Reason: "Answers", Message: "answers"},
		v1alpha1.ConditionIssuing:   {Status: metav1.ConditionUnknown, Reason: "NotUsed", Message: "not used yet"},
	}
	maps.Copy(all, but)
	w.cluster.Status = v1alpha1.TargetClusterStatus{ObservedGeneration: w.cluster.Generation}
	for kind, c := range all {
		c.Type, c.LastTransitionTime = kind, metav1.Now()
		w.cluster.Status.Conditions = append(w.cluster.Status.Conditions, c)
	}
	if err := w.client.Status().Update(w.t.Context(), w.cluster); err != nil {
		w.t.Fatal(err)
	}
}

// run creates the Pod, with a status of its sidecar, and checks it.
func (w *world) run(sidecar *corev1.ContainerStatus) Report {
	w.t.Helper()
	w.create(w.pod)
	if sidecar != nil {
		sidecar.Name = injector.RefresherContainer
		w.pod.Status.Phase = corev1.PodRunning
		w.pod.Status.InitContainerStatuses = []corev1.ContainerStatus{*sidecar}
		if err := w.client.Status().Update(w.t.Context(), w.pod); err != nil {
			w.t.Fatal(err)
		}
	}
	return Pod(w.t.Context(), w.client, w.exec, client.ObjectKeyFromObject(w.pod))
}

func running() *corev1.ContainerStatus {
	return &corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Unix(1_800_000_000, 0))}}}
}

// want checks that the report's last word, or the one on a check, is as given; message and remedy
// hold the texts.
func (w *world) want(r Report, sum Verdict, check string, result Verdict, texts ...string) {
	w.t.Helper()
	var text strings.Builder
	if err := r.WriteText(&text, terminal.Palette{}); err != nil {
		w.t.Fatal(err)
	}
	if r.Result != sum {
		w.t.Errorf("the result is %s, want %s:\n%s", r.Result, sum, text.String())
	}
	for _, f := range r.Checks {
		if f.Check != check {
			continue
		}
		if f.Result != result {
			w.t.Errorf("%s is %s, want %s:\n%s", check, f.Result, result, text.String())
		}
		for _, want := range texts {
			if !strings.Contains(f.Message+"\n"+f.Remedy, want) {
				w.t.Errorf("%s does not tell of %q:\n%s", check, want, text.String())
			}
		}
		return
	}
	w.t.Errorf("nothing about %s:\n%s", check, text.String())
}

func TestFine(t *testing.T) {
	w := newWorld(t)
	var asked []string
	w.exec = func(_ context.Context, pod types.NamespacedName, container string, command ...string) (string, error) {
		asked = append([]string{pod.Name, container}, command...)
		return "", nil
	}
	r := w.run(running())
	ns := w.pod.Namespace
	var text strings.Builder
	if err := r.WriteText(&text, terminal.Palette{}); err != nil {
		t.Fatal(err)
	}
	want := `Pod NS/web-1 → TargetCluster NS/tenant-1
✓ annotation     keyferry.dev/cluster is NS/tenant-1
✓ target cluster NS/tenant-1 exists
✓ resolved       makes sense
✓ reachable      answers
✓ issuing        not used yet
✓ permission     ServiceAccount NS/web may use TargetCluster NS/tenant-1
✓ injected       app, delivery direct
✓ sidecar        running since 2027-01-15 08:00:00 UTC
✓ credential     the files exist, and the credential has not expired
`
	if got := strings.ReplaceAll(text.String(), ns, "NS"); got != want || r.Result != Fine {
		t.Errorf("got %s\n%s\nwant\n%s", r.Result, got, want)
	}
	if got := strings.Join(asked, " "); got != "web-1 keyferry-refresher /refresher wait --timeout=1s" {
		t.Errorf("ran %s", got)
	}
}

func TestNoPod(t *testing.T) {
	w := newWorld(t)
	r := Pod(t.Context(), w.client, w.exec, types.NamespacedName{Namespace: "default", Name: "web-9"})
	w.want(r, Wrong, "pod", Wrong, "no Pod web-9 in namespace default", "kubectl get events")
}

func TestAnnotation(t *testing.T) {
	t.Run("missing", func(t *testing.T) {
		w := newWorld(t)
		w.pod.Annotations = nil
		w.want(w.run(nil), Wrong, "annotation", Wrong, "it is on this cluster", "spec.template.metadata.annotations")
	})
	t.Run("misspelt", func(t *testing.T) {
		w := newWorld(t)
		w.pod.Annotations = map[string]string{"keyferry.dev/cluter": "tenant-1"}
		w.want(w.run(nil), Wrong, "annotation", Wrong, "keyferry.dev/cluter", "keyferry.dev/cluster")
	})
	t.Run("on the Deployment", func(t *testing.T) {
		w := newWorld(t)
		labels := map[string]string{"app": "web"}
		template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
		deployment := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.pod.Namespace, Name: "web", Annotations: map[string]string{injector.AnnotationCluster: "tenant-1"}},
			Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
		}
		w.create(deployment)
		set := &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.pod.Namespace, Name: "web-5d9c7",
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(deployment, appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
			Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
		}
		w.create(set)
		w.pod.Annotations = nil
		w.pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
		w.want(w.run(nil), Wrong, "annotation", Wrong, "metadata of Deployment web", "spec.template.metadata.annotations")
	})
}

func TestTargetCluster(t *testing.T) {
	t.Run("missing", func(t *testing.T) {
		w := newWorld(t)
		w.pod.Annotations[injector.AnnotationCluster] = "tenant-9"
		w.want(w.run(running()), Wrong, "target cluster", Wrong, "there is no TargetCluster tenant-9")
	})
	t.Run("not resolved", func(t *testing.T) {
		w := newWorld(t)
		w.status(map[string]metav1.Condition{v1alpha1.ConditionResolved: {Status: metav1.ConditionFalse, Reason: "SecretNotFound", Message: "Secret x does not exist: create it"}})
		w.want(w.run(running()), Wrong, "resolved", Wrong, "SecretNotFound: Secret x does not exist: create it")
	})
	t.Run("not reachable", func(t *testing.T) {
		w := newWorld(t)
		w.status(map[string]metav1.Condition{v1alpha1.ConditionReachable: {Status: metav1.ConditionFalse, Reason: "Timeout", Message: "no answer"}})
		w.want(w.run(running()), Wrong, "reachable", Wrong, "no answer")
	})
	t.Run("not seen yet", func(t *testing.T) {
		w := newWorld(t)
		w.cluster.Spec.DefaultNamespace = "other"
		if err := w.client.Update(t.Context(), w.cluster); err != nil {
			t.Fatal(err)
		}
		w.want(w.run(running()), Unknown, "conditions", Unknown, "keyferry-controller")
	})
}

func TestPermission(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		w := newWorld(t)
		w.pod.Spec = corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}
		w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.pod.Namespace, Name: "default"}})
		ns := w.pod.Namespace
		w.want(w.run(running()), Wrong, "permission", Wrong, "ServiceAccount "+ns+"/default may not use TargetCluster "+ns+"/tenant-1",
			"keyferry grant "+ns+"/tenant-1 "+ns+"/default")
	})
	t.Run("may not ask", func(t *testing.T) {
		w := newWorld(t)
		w.create(&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.pod.Namespace, Name: "viewer"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "somebody"}},
		})
		w.run(running())
		r := Pod(t.Context(), newClient(t, "somebody"), w.exec, client.ObjectKeyFromObject(w.pod))
		w.want(r, Unknown, "permission", Unknown, "kubectl auth can-i use targetclusters/tenant-1")
	})
}

func TestInjected(t *testing.T) {
	tests := map[string]struct {
		spoil func(*corev1.Pod)
		want  string
	}{
		"not at all":            {func(p *corev1.Pod) { delete(p.Annotations, injector.AnnotationStatus) }, "there is no webhook keyferry-webhook in this cluster"},
		"garbage":               {func(p *corev1.Pod) { p.Annotations[injector.AnnotationStatus] = "{" }, "is spoilt"},
		"annotation changed":    {func(p *corev1.Pod) { p.Annotations[injector.AnnotationStatus] = `{"clusters":["fleet/tenant-2"]}` }, "the Pod was created for fleet/tenant-2"},
		"sidecar removed":       {func(p *corev1.Pod) { p.Spec.InitContainers = nil }, "the Pod lacks parts that Keyferry added: init container keyferry-refresher"},
		"rules removed":         {func(p *corev1.Pod) { p.Spec.InitContainers[0].RestartPolicyRules = nil }, "init container keyferry-refresher: restartPolicyRules"},
		"mount removed":         {func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts = nil }, "container app: volumeMounts"},
		"mount somewhere else":  {func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].MountPath = "/x" }, "container app: volumeMounts"},
		"container has changed": {func(p *corev1.Pod) { p.Spec.Containers[0].Name = "other" }, "lacks parts that Keyferry added: container app"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.spoil(w.pod)
			w.want(w.run(running()), Wrong, "injected", Wrong, tt.want, "delete the Pod")
		})
	}
}

func TestDeliveryAndItsReason(t *testing.T) {
	w := newWorld(t)
	w.inject(map[string]string{injector.AnnotationCluster: "tenant-1"}, injector.Target{Delivery: "Proxy", DeliveryReason: "spec.endpoint.proxyURL is set"})
	w.want(w.run(running()), Fine, "injected", Fine, "app, delivery proxy (spec.endpoint.proxyURL is set)")
}

func TestSubjectToken(t *testing.T) {
	exchanges := func(t *testing.T) *world {
		w := newWorld(t)
		w.cluster.Status.SubjectTokenAudience = "sts.example.com"
		if err := w.client.Status().Update(t.Context(), w.cluster); err != nil {
			t.Fatal(err)
		}
		return w
	}
	t.Run("there", func(t *testing.T) {
		w, target := exchanges(t), direct
		target.SubjectAudience = "sts.example.com"
		w.inject(map[string]string{injector.AnnotationCluster: "tenant-1"}, target)
		w.want(w.run(running()), Fine, "injected", Fine, "its token for sts.example.com is exchanged for "+w.pod.Namespace+"/tenant-1")
	})
	t.Run("for another cluster only", func(t *testing.T) {
		w := exchanges(t)
		w.pod.Annotations[injector.AnnotationStatus] = strings.Replace(w.pod.Annotations[injector.AnnotationStatus], "{", `{"subjectTokenAudiences":{"fleet/tenant-2":"sts.example.com"},`, 1)
		w.want(w.run(running()), Wrong, "injected", Wrong, "exchanges a token of the Pod's own for the audience sts.example.com", "delete the Pod")
	})
	t.Run("missing", func(t *testing.T) {
		w := exchanges(t)
		w.want(w.run(running()), Wrong, "injected", Wrong, "exchanges a token of the Pod's own for the audience sts.example.com", "delete the Pod")
	})
}

func TestSidecar(t *testing.T) {
	t.Run("not scheduled", func(t *testing.T) {
		w := newWorld(t)
		w.want(w.run(nil), Unknown, "sidecar", Unknown, "the sidecar has not been started yet: Pending")
	})
	t.Run("fails", func(t *testing.T) {
		w := newWorld(t)
		r := w.run(&corev1.ContainerStatus{
			RestartCount:         3,
			State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "broker: 403: no permission"}},
		})
		w.want(r, Wrong, "sidecar", Wrong, "CrashLoopBackOff", "broker: 403: no permission", "exit code 1", "kubectl describe pod web-1")
	})
	t.Run("was restarted", func(t *testing.T) {
		w := newWorld(t)
		status := running()
		status.RestartCount = 1
		status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 42, Reason: "Error", Message: "the endpoint moved"}
		w.want(w.run(status), Fine, "sidecar", Fine, "1 restarts, with this message before the last restart: the endpoint moved")
	})
}

func TestCredential(t *testing.T) {
	tests := map[string]struct {
		stderr string
		err    error
		sum    Verdict
		want   string
	}{
		"ended":         {"refresher: the broker answered 503", exec.CodeExitError{Err: errors.New("exit 1"), Code: 1}, Wrong, "the broker answered 503"},
		"no connection": {"", errors.New("dialing: refused"), Unknown, "dialing: refused"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.exec = func(context.Context, types.NamespacedName, string, ...string) (string, error) {
				return tt.stderr, tt.err
			}
			w.want(w.run(running()), tt.sum, "credential", tt.sum, tt.want)
		})
	}
}

// A ClusterProfile has no conditions of ours: it is there or not, and the Pod may use it or not.
func TestClusterProfile(t *testing.T) {
	if err := testenv.InstallClusterProfiles(server); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	ns := w.pod.Namespace
	w.inject(map[string]string{injector.AnnotationClusterProfile: "paris"}, direct)
	without := w.run(running())
	for _, want := range []string{"there is no ClusterProfile paris", "may not use ClusterProfile " + ns + "/paris"} {
		if !slices.ContainsFunc(without.Checks, func(f Finding) bool { return f.Result == Wrong && strings.Contains(f.Message, want) }) {
			t.Errorf("nothing says %q: %+v", want, without.Checks)
		}
	}

	profile := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile", "metadata": map[string]any{"namespace": ns, "name": "paris"},
		"spec": map[string]any{"clusterManager": map[string]any{"name": "test"}},
	}}
	w.create(profile)
	w.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "use-paris"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"use"}, APIGroups: []string{"multicluster.x-k8s.io"}, Resources: []string{"clusterprofiles"}, ResourceNames: []string{"paris"}},
	}})
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "use-paris"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "use-paris"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: "web"}},
	})
	look := func() Report {
		return Pod(t.Context(), w.client, w.exec, types.NamespacedName{Namespace: ns, Name: w.pod.Name})
	}
	r := look()
	for deadline := time.Now().Add(30 * time.Second); r.Result != Fine && time.Now().Before(deadline); {
		r = look() // the API server's own cache of roles gives no sign
	}
	if r.Result != Fine || r.ClusterProfile != ns+"/paris" || r.TargetCluster != "" ||
		!slices.ContainsFunc(r.Checks, func(f Finding) bool { return strings.Contains(f.Message, "may use ClusterProfile "+ns+"/paris") }) {
		t.Errorf("got %+v", r)
	}
}
