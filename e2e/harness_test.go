package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/release"
)

// kube is one cluster, as a person with kubectl has it.
type kube struct {
	client.Client
	clientset  kubernetes.Interface
	config     *rest.Config
	kubeconfig string
}

func connect(kubeconfig string) (*kube, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 50, 100
	// Deprecations are for the authors of manifests; admission warnings are asserted where they are
	// expected.
	cfg.WarningHandler = rest.NoWarnings{}
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		return nil, err
	}
	clientset, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &kube{Client: c, clientset: clientset, config: cfg, kubeconfig: kubeconfig}, nil
}

// kubectl runs kubectl against the cluster; for what only it says.
func (k *kube) kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), suite.kubectl, append([]string{"--kubeconfig", k.kubeconfig}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// apply creates or updates the objects of a YAML template, or of YAML as it is if there are no
// values, and returns the first error.
func (k *kube) apply(ctx context.Context, manifest string, values any) error {
	var text bytes.Buffer
	if values == nil {
		text.WriteString(manifest)
	} else if err := template.Must(template.New("").Option("missingkey=error").Parse(manifest)).Execute(&text, values); err != nil {
		return err
	}
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(&text)); ; {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		obj := &unstructured.Unstructured{}
		if err := utilyaml.Unmarshal(doc, &obj.Object); err != nil {
			return err
		}
		if len(obj.Object) == 0 {
			continue
		}
		if err := k.Apply(ctx, client.ApplyConfigurationFromUnstructured(obj), client.FieldOwner("e2e"), client.ForceOwnership); err != nil {
			return fmt.Errorf("applying %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
}

func (k *kube) mustApply(t testing.TB, manifest string, values any) {
	t.Helper()
	if err := k.apply(t.Context(), manifest, values); err != nil {
		t.Fatal(err)
	}
}

// namespace makes a namespace for the test. When the test ends, it searches the logs for secrets,
// and deletes the namespace.
func (k *kube) namespace(t testing.TB, labels map[string]string) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-", Labels: map[string]string{ofTest: "true"}}}
	maps.Copy(ns.Labels, labels)
	if err := k.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		dir := filepath.Join(suite.runDir, "logs", strings.ReplaceAll(t.Name(), "/", "-"))
		if err := collectLogs(ctx, k, ns.Name, dir); err != nil {
			t.Error(err)
		}
		if k == suite.management {
			suite.witness.searchMetrics(ctx, ns.Name)
		}
		if t.Failed() {
			t.Logf("logs and events of namespace %s are in %s", ns.Name, dir)
			if suite.keep {
				return
			}
		}
		if err := k.Delete(ctx, ns); err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("deleting namespace %s: %v", ns.Name, err)
		}
	})
	return ns.Name
}

// answers waits until a Pod of podtools is ready and the Service in front of it answers by name.
// Until then no object may name the Service: some networks resolve every unknown name to some
// address, where another server answers.
func answers(t testing.TB, namespace, pod, service string) {
	t.Helper()
	svc := &corev1.Service{}
	if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: service}, svc); err != nil {
		t.Fatal(err)
	}
	suite.management.kubectl(t, "wait", "-n", namespace, "pod/"+pod, "--for=condition=Ready", "--timeout=3m")
	suite.management.kubectl(t, "exec", "-n", namespace, pod, "--", "/podtools", "await", "--address="+svc.Spec.ClusterIP,
		fmt.Sprintf("%s.%s.svc:%d", service, namespace, svc.Spec.Ports[0].Port))
}

// gets has e2e/cmd/versions record what users get on this version of Kubernetes, for the table of
// docs/compatibility.md.
func gets(t *testing.T, what string) {
	t.Helper()
	t.Logf("compatibility: %s", what)
}

// collectLogs writes the logs of all containers of a namespace, and its Pods and events, below dir.
// It is an error if one holds a secret.
func collectLogs(ctx context.Context, k *kube, namespace, dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	var errs []error
	for _, kind := range []string{"pods", "events"} {
		out, _ := exec.CommandContext(ctx, suite.kubectl, "--kubeconfig", k.kubeconfig, "describe", kind, "-n", namespace).CombinedOutput()
		errs = append(errs, inspect(out, filepath.Join(dir, kind+".txt")))
	}
	pods, err := k.clientset.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing Pods for their logs: %w", err)
	}
	for _, pod := range pods.Items {
		for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
			for name, previous := range map[string]bool{"current": false, "previous": true} {
				out, err := k.clientset.CoreV1().Pods(namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: c.Name, Previous: previous}).DoRaw(ctx)
				if err != nil {
					continue // it never ran, or has no predecessor
				}
				errs = append(errs, inspect(out, filepath.Join(dir, fmt.Sprintf("%s.%s.%s.log", pod.Name, c.Name, name))))
			}
		}
	}
	return errors.Join(errs...)
}

func inspect(log []byte, file string) error {
	if err := suite.secrets.Find(log); err != nil {
		return fmt.Errorf("in what %s was to hold there is %w", file, err)
	}
	return os.WriteFile(file, log, 0o600)
}

// tenant is what a test has in the target: a namespace, a ServiceAccount that may look at
// everything, and on the management side a TargetCluster that issues its tokens.
type tenant struct {
	Namespace string // in the target, and that of the ServiceAccount
	User      string // the ServiceAccount's name to the target
	Target    string // name of the TargetCluster in namespace fleet
	Server    string // the target's URL, as Pods reach it
}

// fleet is the namespace of the TargetClusters: the one whose Secrets the chart was told to read.
const fleet = "fleet"

// newTenant makes a tenant with a TargetCluster that has its access from a kubeconfig.
func newTenant(t testing.TB) tenant {
	t.Helper()
	tn := newStranger(t)
	tn.secret(t, fleet, map[string][]byte{"kubeconfig": accessKubeconfig(t, tn.Namespace)})
	tn.applyTargetCluster(t, `{}`)
	tn.waitFor(t, "Ready", "True")
	return tn
}

// newStranger makes a tenant of which the management cluster knows nothing yet. In the target,
// besides its ServiceAccount, there is keyferry-access, which may do just what issuing its tokens
// needs.
func newStranger(t testing.TB) tenant {
	t.Helper()
	ns := suite.target.namespace(t, nil)
	tn := tenant{Namespace: ns, User: "system:serviceaccount:" + ns + ":tenant", Target: ns, Server: suite.targetServer}
	suite.target.mustApply(t, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: tenant, namespace: {{.Namespace}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: keyferry-access, namespace: {{.Namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: keyferry-access, namespace: {{.Namespace}}}
rules:
- {apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [tenant], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: keyferry-access, namespace: {{.Namespace}}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: keyferry-access}
subjects: [{kind: ServiceAccount, name: keyferry-access, namespace: {{.Namespace}}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: e2e-see-namespaces}
rules:
- {apiGroups: [""], resources: [namespaces], verbs: [get, list, watch]}
`, tn)
	// The one cluster-scoped object, so it goes with the test.
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "e2e-see-namespaces"},
		Subjects: []rbacv1.Subject{
			{Kind: rbacv1.ServiceAccountKind, Name: "tenant", Namespace: ns},
			// To know the cluster again by its kube-system namespace.
			{Kind: rbacv1.ServiceAccountKind, Name: "keyferry-access", Namespace: ns},
		},
	}
	if err := suite.target.Create(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, suite.target, binding)
	return tn
}

// secret makes a Secret of the management cluster with the name of the TargetCluster.
func (tn tenant) secret(t testing.TB, namespace string, data map[string][]byte) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: tn.Target, Namespace: namespace}, Data: data}
	plant(secret)
	if err := suite.management.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, suite.management, secret)
}

// plant has what a provider's Secret holds looked for where it should not be.
func plant(secret *corev1.Secret) {
	for key, value := range secret.Data {
		suite.secrets.Add(fmt.Sprintf("%s of Secret %s/%s", key, secret.Namespace, secret.Name), value)
	}
}

// plantIssued has what was issued into a Secret looked for; the Secret holds names and addresses,
// too.
func plantIssued(secret *corev1.Secret) {
	for key, value := range secret.Data {
		suite.secrets.AddFrom(fmt.Sprintf("%s of Secret %s/%s", key, secret.Namespace, secret.Name), value)
	}
}

// endpoint is the target's, in YAML's flow style.
func (tn tenant) endpoint() string {
	return fmt.Sprintf("{server: '%s', certificateAuthorityData: %s}", tn.Server, base64.StdEncoding.EncodeToString(suite.targetCA))
}

// tokenRequest is what Pods are issued, in YAML's flow style: tokens of the tenant's
// ServiceAccount.
func (tn tenant) tokenRequest() string {
	return "{type: TokenRequest, tokenRequest: {serviceAccount: {type: Fixed, namespace: " + tn.Namespace + ", name: tenant}, duration: 10m}}"
}

// applyTargetCluster writes the TargetCluster with an endpoint, in YAML's flow style; {} leaves it
// to the kubeconfig.
func (tn tenant) applyTargetCluster(t testing.TB, endpoint string) {
	t.Helper()
	spec := "access: {type: Kubeconfig, kubeconfig: {name: " + tn.Target + "}}\nissue: " + tn.tokenRequest() + "\n"
	if endpoint != "{}" {
		spec += "endpoint: " + endpoint + "\n"
	}
	tn.applySpec(t, spec)
}

// applySpec writes the TargetCluster; it goes with the test.
func (tn tenant) applySpec(t testing.TB, spec string) {
	t.Helper()
	fields := map[string]any{}
	if err := utilyaml.Unmarshal([]byte(spec), &fields); err != nil {
		t.Fatal(err)
	}
	tc := tn.object()
	tc.Object["spec"] = fields
	if err := suite.management.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(tc), client.FieldOwner("e2e"), client.ForceOwnership); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, suite.management, tn.object())
}

// object is the TargetCluster, black box: without our types.
func (tn tenant) object() *unstructured.Unstructured {
	tc := &unstructured.Unstructured{}
	tc.SetAPIVersion("keyferry.dev/v1alpha1")
	tc.SetKind("TargetCluster")
	tc.SetNamespace(fleet)
	tc.SetName(tn.Target)
	return tc
}

// waitFor waits for a condition of the TargetCluster, as observed of its newest generation.
func (tn tenant) waitFor(t testing.TB, condition, status string) {
	t.Helper()
	eventually(t, 2*time.Minute, fmt.Sprintf("TargetCluster %s: %s=%s", tn.Target, condition, status), func() error {
		tc := tn.object()
		if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(tc), tc); err != nil {
			return err
		}
		is, message, err := conditionOf(tc, condition)
		if err == nil && is != status {
			err = fmt.Errorf("it is %s: %s", is, message)
		}
		return err
	})
}

// conditionOf returns status and message of a condition of a TargetCluster. It is an error if the
// condition is not there, or not of the newest generation.
func conditionOf(tc *unstructured.Unstructured, condition string) (status, message string, err error) {
	if observed, _, _ := unstructured.NestedInt64(tc.Object, "status", "observedGeneration"); observed != tc.GetGeneration() {
		return "", "", fmt.Errorf("generation %d is not observed yet", tc.GetGeneration())
	}
	conditions, _, _ := unstructured.NestedSlice(tc.Object, "status", "conditions")
	for _, c := range conditions {
		if c := c.(map[string]any); c["type"] == condition {
			return fmt.Sprint(c["status"]), fmt.Sprint(c["message"]), nil
		}
	}
	return "", "", errors.New("there is no such condition")
}

// allow lets a ServiceAccount of the management cluster use the TargetCluster.
func (tn tenant) allow(t testing.TB, namespace, serviceAccount string) *rbacv1.RoleBinding {
	t.Helper()
	name := namespace + "-" + serviceAccount + "-" + tn.Target
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: fleet},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"keyferry.dev"}, Resources: []string{"targetclusters"}, ResourceNames: []string{tn.Target}, Verbs: []string{"use"}}},
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: fleet},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: serviceAccount, Namespace: namespace}},
	}
	for _, obj := range []client.Object{role, binding} {
		if err := suite.management.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
		cleanUp(t, suite.management, obj)
	}
	return binding
}

// accessKubeconfig is a kubeconfig of keyferry-access in the target, with a token for a day.
func accessKubeconfig(t testing.TB, namespace string) []byte {
	t.Helper()
	review, err := suite.target.clientset.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), "keyferry-access",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](24 * 3600)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["target"] = &clientcmdapi.Cluster{Server: suite.targetServer, CertificateAuthorityData: suite.targetCA}
	cfg.AuthInfos["keyferry"] = &clientcmdapi.AuthInfo{Token: review.Status.Token}
	cfg.Contexts["target"] = &clientcmdapi.Context{Cluster: "target", AuthInfo: "keyferry"}
	cfg.CurrentContext = "target"
	out, err := clientcmd.Write(*cfg)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// moduleDir is the folder of a module that the tests depend on.
func moduleDir(t testing.TB, module string) string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module)
	list.Dir = filepath.Join(release.Root(), "e2e")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// applyFiles applies YAML files as they are.
func (k *kube) applyFiles(t testing.TB, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s (%v)", pattern, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		k.mustApply(t, string(text), nil)
	}
}

// cleanUp deletes an object with the end of the test, after a look for secrets in it, if it is not
// one.
func cleanUp(t testing.TB, k *kube, obj client.Object) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, ok := obj.(*corev1.Secret); !ok && k.Get(ctx, client.ObjectKeyFromObject(obj), obj) == nil {
			text, err := json.Marshal(obj)
			if err != nil {
				t.Error(err)
			}
			suite.witness.look(fmt.Sprintf("%T %s/%s", obj, obj.GetNamespace(), obj.GetName()), text)
		}
		if err := k.Delete(ctx, obj); err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("deleting %T %s: %v", obj, obj.GetName(), err)
		}
	})
}

// eventually tries until it succeeds or the time is up.
func eventually(t testing.TB, timeout time.Duration, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s: %v", timeout, what, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, context.Cause(t.Context()))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// report is a line that the client program prints: see testdata/client.
type report struct {
	Time        time.Time `json:"time"`
	Client      string    `json:"client"`
	Requests    int       `json:"requests"`
	Failures    int       `json:"failures"`
	LastError   string    `json:"lastError"`
	User        string    `json:"user"`
	Host        string    `json:"host"`
	TokenSHA256 string    `json:"tokenSHA256"`
	Namespaces  []string  `json:"namespaces"`
	WatchEvents int       `json:"watchEvents"`
	// WatchesEnded and Hearing are of the Go client only.
	WatchesEnded int `json:"watchesEnded"`
	Hearing      int `json:"hearing"`
}

// reports reads what a client container has printed so far.
func reports(ctx context.Context, namespace, pod, container string) ([]report, error) {
	return reportsOf(ctx, namespace, pod, &corev1.PodLogOptions{Container: container})
}

func reportsOf(ctx context.Context, namespace, pod string, options *corev1.PodLogOptions) ([]report, error) {
	out, err := suite.management.clientset.CoreV1().Pods(namespace).GetLogs(pod, options).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var all []report
	said := "nothing"
	for line := range bytes.Lines(out) {
		var r report
		if err := json.Unmarshal(line, &r); err != nil {
			said = string(line) // a library's warning, or why it ended
			continue
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the client has not reported yet; it says %s", said)
	}
	return all, nil
}

// distinctTokens counts the tokens that a client saw.
func distinctTokens(all []report) int {
	seen := map[string]bool{}
	for _, r := range all {
		seen[r.TokenSHA256] = true
	}
	return len(seen)
}
