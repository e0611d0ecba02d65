package apitest

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli"
	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/internal/testenv"
)

// address is one of the target that is not loopback, where the test's API servers are.
const address = "https://tenant-9.example.com:6443"

// twoClusters are the management cluster and a target, with control planes that issue tokens and
// mark TargetClusters as ready.
type twoClusters struct {
	t          *testing.T
	kubeconfig []byte // with the contexts management, which is current, target, and by-name, the same with a name as address
	target     *rest.Config
	management client.Client
	inTarget   client.Client
	// stopController stops what marks TargetClusters as ready.
	stopController func()
}

func newTwoClusters(t *testing.T) *twoClusters {
	t.Helper()
	w := &twoClusters{t: t, target: testenv.Target(t, ""), management: administrator(t)}
	w.inTarget = testenv.NewClient(t, w.target)
	t.Cleanup(testenv.FillTokens(t, w.target))
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	w.stopController = sync.OnceFunc(testenv.MarkReady(t, cfg))
	t.Cleanup(w.stopController)
	config, err := clientcmd.Load(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Clusters["target"] = &clientcmdapi.Cluster{Server: w.target.Host, CertificateAuthorityData: w.target.CAData}
	config.AuthInfos["target"] = &clientcmdapi.AuthInfo{ClientCertificateData: w.target.CertData, ClientKeyData: w.target.KeyData}
	config.Clusters["by-name"] = &clientcmdapi.Cluster{Server: w.byName(), TLSServerName: "localhost", CertificateAuthorityData: w.target.CAData}
	config.Contexts["by-name"] = &clientcmdapi.Context{Cluster: "by-name", AuthInfo: "target"}
	config.Contexts["target"] = &clientcmdapi.Context{Cluster: "target", AuthInfo: "target"}
	if w.kubeconfig, err = clientcmd.Write(*config); err != nil {
		t.Fatal(err)
	}
	return w
}

// byName is the target's URL with a name, which is no loopback address.
func (w *twoClusters) byName() string {
	return strings.Replace(w.target.Host, "127.0.0.1", "tenant-9.example.com", 1)
}

// add runs keyferry target add for fleet/tenant-9.
func (w *twoClusters) add(args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	return runWith(w.t, w.kubeconfig, "keyferry", append([]string{"target", "add", "fleet/tenant-9", "--context", "target", "--endpoint", address}, args...)...)
}

// addOK has to succeed.
func (w *twoClusters) addOK(args ...string) (stdout, stderr string) {
	w.t.Helper()
	code, stdout, stderr := w.add(args...)
	if code != cli.ExitOK {
		w.t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	return stdout, stderr
}

// remove removes TargetCluster and Secret, so that another test can use the names.
func (w *twoClusters) remove() {
	w.t.Helper()
	for _, object := range []client.Object{&v1alpha1.TargetCluster{}, &corev1.Secret{}} {
		object.SetNamespace("fleet")
		object.SetName("tenant-9")
		if err := client.IgnoreNotFound(w.management.Delete(w.t.Context(), object)); err != nil {
			w.t.Error(err)
		}
	}
}

// made are the names of what is labelled in the target.
func (w *twoClusters) made() []string {
	w.t.Helper()
	var names []string
	for _, kind := range []string{"Namespace", "ServiceAccount", "Secret", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} {
		list := &metav1.PartialObjectMetadataList{}
		list.APIVersion, list.Kind = "v1", kind
		if strings.Contains(kind, "Role") {
			list.APIVersion = rbacv1.SchemeGroupVersion.String()
		}
		if err := w.inTarget.List(w.t.Context(), list, client.MatchingLabels{managed.Label: managed.Value}); err != nil {
			w.t.Fatal(err)
		}
		for i := range list.Items {
			names = append(names, strings.TrimPrefix(kind+" "+list.Items[i].Namespace+"/"+list.Items[i].Name, "/"))
		}
	}
	return names
}

// stored is what the kubeconfig that Keyferry has says.
func (w *twoClusters) stored() *rest.Config {
	w.t.Helper()
	secret := &corev1.Secret{}
	if err := w.management.Get(w.t.Context(), types.NamespacedName{Namespace: "fleet", Name: "tenant-9"}, secret); err != nil {
		w.t.Fatal(err)
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(secret.Data["kubeconfig"])
	if err != nil {
		w.t.Fatal(err)
	}
	return cfg
}

// token returns the access token that Keyferry has.
func (w *twoClusters) token() string {
	w.t.Helper()
	return w.stored().BearerToken
}

// access returns clients that act with the kubeconfig that Keyferry has, at the address of the
// test's API server.
func (w *twoClusters) access() kubernetes.Interface {
	w.t.Helper()
	cfg := w.stored()
	if cfg.Host != address {
		w.t.Errorf("the kubeconfig is for %s", cfg.Host)
	}
	cfg.Host = w.target.Host
	return kubernetes.NewForConfigOrDie(cfg)
}

func TestTargetAdd(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	stdout, stderr := w.addOK("--role", "view")
	for _, want := range []string{"TargetCluster fleet/tenant-9 is ready", "keyferry grant fleet/tenant-9 NAMESPACE/SERVICEACCOUNT"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	if !strings.Contains(stderr, "warning: the access token of TargetCluster fleet/tenant-9 does not expire. The token can only request tokens of ServiceAccount keyferry-pods/fleet.tenant-9") {
		t.Errorf("no warning in %s", stderr)
	}
	want := []string{
		"Namespace /keyferry", "Namespace /keyferry-pods",
		"ServiceAccount keyferry-pods/fleet.tenant-9", "ServiceAccount keyferry/fleet.tenant-9",
		"Secret keyferry/fleet.tenant-9",
		"Role keyferry-pods/keyferry:fleet.tenant-9", "RoleBinding keyferry-pods/keyferry:fleet.tenant-9",
		"ClusterRole /keyferry:fleet.tenant-9", "ClusterRoleBinding /keyferry:fleet.tenant-9", "ClusterRoleBinding /keyferry:fleet.tenant-9:pods:view",
	}
	if got := w.made(); !slices.Equal(got, want) {
		t.Errorf("made %q, want %q", got, want)
	}
	w.checkAccess()

	again, _ := w.addOK("--role", "view")
	if strings.Contains(again, "created") || strings.Contains(again, "configured") || strings.Contains(again, "deleted") || strings.Count(again, "unchanged") != len(want)+2 {
		t.Errorf("run again:\n%s", again)
	}
	changed, _ := w.addOK("--role", "edit")
	for _, want := range []string{"ClusterRoleBinding keyferry:fleet.tenant-9:pods:edit created", "ClusterRoleBinding keyferry:fleet.tenant-9:pods:view deleted"} {
		if !strings.Contains(changed, "target: "+want+"\n") {
			t.Errorf("no %q in\n%s", want, changed)
		}
	}
	if strings.Contains(changed, "configured") {
		t.Errorf("more was changed:\n%s", changed)
	}
}

// checkAccess: the access token can request tokens of one ServiceAccount, and nothing else.
func (w *twoClusters) checkAccess() {
	t := w.t
	t.Helper()
	ctx, access := t.Context(), w.access()
	pods := types.NamespacedName{Namespace: "keyferry-pods", Name: "fleet.tenant-9"}
	issued, err := access.CoreV1().ServiceAccounts(pods.Namespace).CreateToken(ctx, pods.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("requesting a token: %v", err)
	}
	if _, err := access.CoreV1().Namespaces().Get(ctx, "kube-system", metav1.GetOptions{}); err != nil {
		t.Errorf("reading kube-system: %v", err)
	}
	for what, do := range map[string]func() error{
		"a token of itself": func() error {
			_, err := access.CoreV1().ServiceAccounts("keyferry").CreateToken(ctx, "fleet.tenant-9", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		},
		"a token of another account": func() error {
			_, err := access.CoreV1().ServiceAccounts("kube-system").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		},
		"a token of an account beside it": func() error {
			_, err := access.CoreV1().ServiceAccounts(pods.Namespace).CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		},
		"Secrets": func() error {
			_, err := access.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
			return err
		},
		"Pods": func() error {
			_, err := access.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
			return err
		},
	} {
		if err := do(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: got %v, want that it is forbidden", what, err)
		}
	}
	if issued.Status.Token == "" {
		t.Error("no token")
	}
}

// TestTargetAddForGit: what is printed is what is made, but for the token.
func TestTargetAddForGit(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	printed, _ := w.addOK("--mirror", "default", "--create", "--dry-run=client", "-o", "yaml")
	if got := w.made(); len(got) > 0 {
		t.Errorf("a dry run made %q", got)
	}
	target, management, ok := strings.Cut(printed, "# In the management cluster. The token is in Secret keyferry/fleet.tenant-9 of the target.\n")
	if !ok || !strings.HasPrefix(target, "---\n# In the target\n") || !strings.Contains(management, "REPLACE-WITH-THE-TOKEN") {
		t.Fatalf("printed %s", printed)
	}
	w.addOK("--mirror", "default", "--create")
	for document := range strings.SplitSeq(strings.TrimSuffix(strings.TrimPrefix(target, "---\n"), "---\n"), "---\n") {
		object, err := decode(document)
		if err != nil {
			t.Fatal(err)
		}
		if outcome, err := managed.Apply(t.Context(), w.inTarget, object); err != nil || outcome != managed.Unchanged {
			t.Errorf("%s: %s, %v", managed.Name(object), outcome, err)
		}
	}
}

// TestTargetAddChangesOnlyItsOwn: if one of the objects exists and is not labelled, nothing is
// made.
func TestTargetAddChangesOnlyItsOwn(t *testing.T) {
	w := newTwoClusters(t)
	for _, foreign := range []struct {
		cluster client.Client
		object  client.Object
	}{
		{w.inTarget, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "keyferry:fleet.tenant-9"}}},
		{w.inTarget, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{
			Name: "keyferry:fleet.tenant-9", Labels: map[string]string{managed.Label: managed.Value}, Annotations: map[string]string{managed.OwnerAnnotation: "another"},
		}}},
		{w.management, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "tenant-9"}}},
	} {
		if err := foreign.cluster.Create(t.Context(), foreign.object); err != nil {
			t.Fatal(err)
		}
		before := w.made()
		code, stdout, stderr := w.add()
		if code != cli.ExitFailed || stdout != "" || !strings.Contains(stderr, foreign.object.GetName()+" exists and was not made by keyferry") && !strings.Contains(stderr, "exists for another TargetCluster") {
			t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
		}
		if got := w.made(); !slices.Equal(got, before) {
			t.Errorf("made %q", got)
		}
		if err := foreign.cluster.Delete(t.Context(), foreign.object); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTargetAddUndoes: if the second cluster refuses its part, nothing is left in the first. What
// was there before stays.
func TestTargetAddUndoes(t *testing.T) {
	w := newTwoClusters(t)
	if err := w.inTarget.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "robots"}}); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := runWith(t, w.kubeconfig, "keyferry", "target", "add", "nowhere/tenant-9", "--context", "target", "--endpoint", address, "--service-account", "robots/robot")
	if code != cli.ExitFailed || !strings.Contains(stderr, `namespaces "nowhere" not found`) {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	// envtest has no controller that completes the deletion of a Namespace.
	for _, name := range w.made() {
		if !strings.HasPrefix(name, "Namespace ") {
			t.Errorf("%s is left", name)
		}
	}
	robots := &corev1.Namespace{}
	if err := w.inTarget.Get(t.Context(), types.NamespacedName{Name: "robots"}, robots); err != nil || robots.DeletionTimestamp != nil {
		t.Errorf("the namespace that was there before: %v, %v", robots.DeletionTimestamp, err)
	}
}

// TestTargetRotate: the new token works before the old one is revoked. It takes no token that
// works, so it also ends a lock-out.
func TestTargetRotate(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	w.addOK()
	rotate := func() (int, string, string) {
		return runWith(t, w.kubeconfig, "keyferry", "target", "rotate", "fleet/tenant-9", "--context", "target", "--grace-period", "0s")
	}
	before := w.token()
	code, stdout, stderr := rotate()
	want := "target: Secret keyferry/fleet.tenant-9.2 created\nmanagement cluster: Secret fleet/tenant-9 configured\ntarget: Secret keyferry/fleet.tenant-9 deleted\n"
	if code != cli.ExitOK || stdout != want {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if w.token() == before {
		t.Error("the token is the same")
	}
	w.checkAccess()
	if again, _ := w.addOK(); strings.Contains(again, "created") || strings.Contains(again, "configured") {
		t.Errorf("add makes another token:\n%s", again)
	}

	// An outage, after which the token in the Secret is worth nothing.
	if err := w.inTarget.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "keyferry", Name: "fleet.tenant-9.2"}}); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := rotate(); code != cli.ExitOK {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	w.checkAccess()
}

// TestTargetRotateKeepsTheOldToken: a new token that does not work is removed again, and nothing
// else changes.
func TestTargetRotateKeepsTheOldToken(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	w.addOK()
	before, made := w.token(), w.made()
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "keyferry", Name: "fleet.tenant-9.2"}}
	if err := w.inTarget.Create(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := runWith(t, w.kubeconfig, "keyferry", "target", "rotate", "fleet/tenant-9", "--context", "target")
	if code != cli.ExitFailed || !strings.Contains(stderr, "the old access token stays in use") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if w.token() != before || !slices.Equal(w.made(), made) {
		t.Errorf("something changed: %q", w.made())
	}
	w.checkAccess()
}

// TestTargetRemove: what add made is gone in both clusters, and so are grants, which a later
// TargetCluster must not inherit.
func TestTargetRemove(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	w.addOK("--role", "view")
	if code, _, stderr := runWith(t, w.kubeconfig, "keyferry", "grant", "fleet/tenant-9", "app/web"); code != cli.ExitOK {
		t.Fatal(stderr)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "user-of-tenant-9", Annotations: map[string]string{
			"keyferry.dev/status": `{"clusters": ["fleet/tenant-9"], "delivery": "Direct", "containers": ["app"]}`,
		}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	create(t, w.management, pod)
	remove := func(args ...string) (int, string, string) {
		return runWith(t, w.kubeconfig, "keyferry", append([]string{"target", "remove", "fleet/tenant-9", "--context", "target"}, args...)...)
	}
	before := w.made()
	code, stdout, stderr := remove()
	if code != cli.ExitFailed || stdout != "Pod app/user-of-tenant-9 uses it, as ServiceAccount default\n" || !strings.Contains(stderr, "is in use: remove these first, or add --force") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if !slices.Equal(w.made(), before) || w.token() == "" {
		t.Error("something was removed")
	}
	code, stdout, stderr = remove("--force")
	if code != cli.ExitOK || !strings.Contains(stdout, "management cluster: RoleBinding fleet/keyferry:use:tenant-9:app:web deleted\n") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if got, want := w.made(), []string{"Namespace /keyferry", "Namespace /keyferry-pods"}; !slices.Equal(got, want) {
		t.Errorf("left in the target: %q, want %q", got, want)
	}
	for _, object := range []client.Object{&v1alpha1.TargetCluster{}, &corev1.Secret{}} {
		if err := w.management.Get(t.Context(), types.NamespacedName{Namespace: "fleet", Name: "tenant-9"}, object); !apierrors.IsNotFound(err) {
			t.Errorf("%T: %v", object, err)
		}
	}
	if code, stdout, stderr := remove(); code != cli.ExitOK || stdout != "" {
		t.Errorf("run again: exit code %d\n%s%s", code, stdout, stderr)
	}
}

// TestTargetOfAnotherCluster: a wrong context changes nothing in either cluster.
func TestTargetOfAnotherCluster(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	w.addOK("--role", "view")
	before, token := w.made(), w.token()
	for name, args := range map[string][]string{
		"add":    {"target", "add", "fleet/tenant-9", "--endpoint", address, "--role", "edit"},
		"remove": {"target", "remove", "fleet/tenant-9"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := clientcmd.Load(w.kubeconfig)
			if err != nil {
				t.Fatal(err)
			}
			// The management cluster is another cluster than the target, too.
			code, stdout, stderr := runWith(t, w.kubeconfig, "keyferry", append(args, "--context", config.CurrentContext)...)
			if code != cli.ExitFailed || !strings.Contains(stderr, "target: this cluster has no objects for TargetCluster fleet/tenant-9") {
				t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
			}
			if !slices.Equal(w.made(), before) || w.token() != token {
				t.Errorf("something changed: %q", w.made())
			}
			if err := w.management.Get(t.Context(), types.NamespacedName{Namespace: "fleet", Name: "tenant-9"}, &v1alpha1.TargetCluster{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTargetAddWithoutANamespace: the namespace is that of the flag.
func TestTargetAddWithoutANamespace(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	code, stdout, stderr := runWith(t, w.kubeconfig, "keyferry", "target", "add", "tenant-9", "-n", "fleet", "--context", "target", "--endpoint", address)
	if code != cli.ExitOK || !strings.Contains(stdout, "TargetCluster fleet/tenant-9 is ready\n") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

// TestTargetAddCreateOfAnExistingAccount is refused: Keyferry would issue nothing for it.
func TestTargetAddCreateOfAnExistingAccount(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "robots"}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "robots", Name: "robot"}}
	create(t, w.inTarget, namespace)
	create(t, w.inTarget, account)
	code, stdout, stderr := w.add("--service-account", "robots/robot", "--create")
	if code != cli.ExitFailed || !strings.Contains(stderr, "--create: ServiceAccount robots/robot exists") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if got := w.made(); len(got) != 0 {
		t.Errorf("made %q", got)
	}
}

// TestTargetAddRefuses unsafe kubeconfigs, before it connects to anything.
func TestTargetAddRefuses(t *testing.T) {
	t.Parallel()
	const cluster = `server: "https://203.0.113.7:6443", certificate-authority-data: Y2E=`
	document := func(cluster, user string) string {
		return fmt.Sprintf("current-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\nclusters: [{name: a, cluster: {%s}}]\nusers: [{name: a, user: {%s}}]\n", cluster, user)
	}
	exec := func(command string) string {
		return document(cluster, "exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: "+command+"}")
	}
	for name, test := range map[string]struct {
		kubeconfig string
		want       string
	}{
		"aws":        {exec("aws"), `the access type EKS, or put a token or a client certificate into the kubeconfig (the program is "aws"): the command runs no program, so it creates nothing in the target: set --service-account or --mirror`},
		"gke":        {exec("gke-gcloud-auth-plugin"), "docs/providers/gke.md"},
		"kubelogin":  {exec("kubelogin"), "docs/providers/aks.md"},
		"ncp":        {exec("ncp-iam-authenticator"), "docs/providers/ncp.md"},
		"unknown":    {exec("/opt/acme/login"), `the program is "login", which Keyferry does not know`},
		"a file":     {document(cluster, "tokenFile: /etc/passwd"), "--flatten"},
		"insecure":   {document(cluster+", insecure-skip-tls-verify: true", "token: t"), "insecure-skip-tls-verify is not allowed"},
		"aliases":    {"clusters: &all [{name: a}]\nusers: *all", "uses YAML aliases"},
		"huge":       {strings.Repeat("# no end\n", 1<<17), "is larger than 1 MiB"},
		"UTF-16":     {"\xff\xfea\x00", "is not UTF-8 text"},
		"no context": {"{}", "current-context"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "target")
			if err := os.WriteFile(file, []byte(test.kubeconfig), 0o600); err != nil {
				t.Fatal(err)
			}
			code, stdout, stderr := run(t, "keyferry", "target", "add", "fleet/tenant-9", "--kubeconfig", file)
			if code != cli.ExitFailed || stdout != "" || !strings.Contains(stderr, "error: kubeconfig "+file+": ") && !strings.Contains(stderr, "error: reading kubeconfig "+file+": ") || !strings.Contains(stderr, test.want) {
				t.Errorf("exit code %d, %s%s", code, stdout, stderr)
			}
		})
	}
	t.Run("loopback", func(t *testing.T) {
		t.Parallel()
		code, stdout, stderr := run(t, "keyferry", "target", "add", "fleet/tenant-9", "--context", "other")
		if code != cli.ExitFailed || stdout != "" || !strings.Contains(stderr, "is a loopback address") || !strings.Contains(stderr, "--endpoint") {
			t.Errorf("exit code %d, %s%s", code, stdout, stderr)
		}
	})
}

// decode reads an object of a kind that the command makes in a target.
func decode(document string) (client.Object, error) {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
		return nil, err
	}
	object := map[string]client.Object{
		"Namespace": &corev1.Namespace{}, "ServiceAccount": &corev1.ServiceAccount{}, "Secret": &corev1.Secret{},
		"Role": &rbacv1.Role{}, "RoleBinding": &rbacv1.RoleBinding{}, "ClusterRole": &rbacv1.ClusterRole{}, "ClusterRoleBinding": &rbacv1.ClusterRoleBinding{},
	}[kind.Kind]
	if object == nil {
		return nil, fmt.Errorf("kind %q", kind.Kind)
	}
	return object, yaml.UnmarshalStrict([]byte(document), object)
}

// TestTargetAddWaitsForTheNewEndpoint: run again with another endpoint, it does not take the
// conditions of the old one for those of the new one.
func TestTargetAddWaitsForTheNewEndpoint(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	w.addOK()
	w.stopController()
	args := []string{"target", "add", "fleet/tenant-9", "--context", "target", "--endpoint", "https://tenant-9.example.com:7443", "--timeout", "1s"}
	code, stdout, stderr := runWith(t, w.kubeconfig, "keyferry", args...)
	if code != cli.ExitFailed || !strings.Contains(stderr, "the controller has not reconciled the TargetCluster after 1s") || strings.Contains(stdout, "is ready") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

// TestTargetAddOfAPublicCertificate: Pods verify the target by public CA certificates, on request
// only.
func TestTargetAddOfAPublicCertificate(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	config, err := clientcmd.Load(w.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Clusters["target"].CertificateAuthorityData = nil
	withoutCA, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	code, _, stderr := runWith(t, withoutCA, "keyferry", "target", "add", "fleet/tenant-9", "--context", "target")
	if code != cli.ExitFailed || !strings.Contains(stderr, "the cluster has no certificate-authority-data") || !strings.Contains(stderr, "add --well-known-ca-certificates System") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	w.addOK("--well-known-ca-certificates", "System")
	tc := &v1alpha1.TargetCluster{}
	if err := w.management.Get(t.Context(), types.NamespacedName{Namespace: "fleet", Name: "tenant-9"}, tc); err != nil {
		t.Fatal(err)
	}
	if want := (v1alpha1.Endpoint{Server: address, WellKnownCACertificates: "System"}); !reflect.DeepEqual(*tc.Spec.Endpoint, want) {
		t.Errorf("endpoint %+v, want %+v", tc.Spec.Endpoint, want)
	}
	if stored := w.stored(); len(stored.CAData) > 0 {
		t.Errorf("the kubeconfig has the CA %s", stored.CAData)
	}
}
