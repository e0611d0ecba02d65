package main

import (
	"context"
	"crypto/tls"
	"flag"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/internal/generated"
	"github.com/keyferry/keyferry/internal/metrics/metricstest"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/webhook"
)

const account = "system:serviceaccount:keyferry-system:keyferry-webhook"

var (
	apiServer *rest.Config
	update    = flag.Bool("update", false, "write what is generated")
)

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { apiServer = cfg }))
}

// TestServesAndStops runs the whole command with the rights that it has in a cluster and no other:
// it gets ready, answers, counts, and ends when its context does.
func TestServesAndStops(t *testing.T) {
	grantRights(t)
	createHub(t)
	certDir := t.TempDir()
	roots := testenv.WriteCertificate(t, certDir)
	t.Setenv("KUBECONFIG", testenv.WriteKubeconfig(t, apiServer, account))
	service, health, metrics := testenv.FreeAddress(t), testenv.FreeAddress(t), testenv.FreeAddress(t)
	_, port, err := net.SplitHostPort(service)
	must(t, err)

	providers := filepath.Join(certDir, "providers.json")
	must(t, os.WriteFile(providers, []byte(`{"providers":[{"name":"hub","image":"example.com/plugin:1","execConfig":{"apiVersion":"client.authentication.k8s.io/v1","command":"/plugin"}}]}`), 0o600))

	program := testenv.Execute(t, command(),
		"--namespace=keyferry-system", "--cert-dir="+certDir, "--port="+port, "--health-address="+health, "--metrics-address="+metrics,
		"--refresher-image=keyferry.example/refresher:v1", "--broker-url=https://keyferry-broker.keyferry-system.svc", "--log-level=1",
		`--refresher-resources={"limits":{"memory":"64Mi"}}`, "--provider-file="+providers, "--shutdown-delay-duration=0s",
	)
	program.Ready(t, health)
	caller := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}}
	const review = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","namespace":"shop","operation":"CREATE","resource":{"version":"v1","resource":"pods"},` +
		`"object":{"metadata":{"annotations":{"keyferry.dev/cluster":"fleet/tenant-1"}},"spec":{"containers":[{"name":"app"}]}}}}`
	code, body := testenv.Ask(t, caller, http.MethodPost, "https://"+service+webhook.PathPods+"?timeout=10s", review)
	if code != http.StatusOK || !strings.Contains(body, "ServiceAccount shop/default may not use TargetCluster fleet/tenant-1") {
		t.Errorf("code %d: %s", code, body)
	}
	ofHub := strings.Replace(review, `"keyferry.dev/cluster":"fleet/tenant-1"`, `"keyferry.dev/cluster-profile":"fleet/hub"`, 1)
	// The addresses are read after the start.
	err = wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		code, body = testenv.Ask(t, caller, http.MethodPost, "https://"+service+webhook.PathPods+"?timeout=10s", ofHub)
		return code == http.StatusOK && strings.Contains(body, "AddressRefused"), nil
	})
	if err != nil {
		t.Errorf("a target with the API server's own address is not denied: %s", body)
	}
	_, counted := testenv.Ask(t, testenv.NewScraper(t, apiServer, roots, ""), http.MethodGet, "https://"+metrics+"/metrics", "")
	for _, want := range []string{
		`keyferry_admission_requests_total{outcome="denied",reason="Forbidden",webhook="pods"} 1`,
		`keyferry_admission_env_from_file 0`, // there are no nodes
	} {
		if !strings.Contains(counted, want) {
			t.Errorf("no %s", want)
		}
	}
	metricstest.Check(t, "webhook", counted, *update)
	program.Stop(t)
}

func TestWrongFlags(t *testing.T) {
	t.Setenv("KUBECONFIG", testenv.WriteKubeconfig(t, apiServer, ""))
	t.Setenv("POD_NAMESPACE", "")
	needed := []string{"--refresher-image=i", "--broker-url=https://broker", "--health-address=0", "--metrics-address=0", "--namespace=keyferry-system"}
	for want, args := range map[string][]string{
		"broker-url":                    {"--refresher-image=i"},
		"refresher-image":               {"--broker-url=https://broker"},
		"--log-level":                   append(needed, "--log-level=2"),
		"--broker-url=http://broker":    append(needed, "--broker-url=http://broker"),
		"--refresher-resources":         append(needed, "--refresher-resources={"),
		"more cpu than its limit":       append(needed, `--refresher-resources={"requests":{"cpu":"1"},"limits":{"cpu":"500m"}}`),
		"--restart-spread=-1s":          append(needed, "--restart-spread=-1s"),
		"--refresher-image-pull-policy": append(needed, "--refresher-image-pull-policy=Sometimes"),
		"--env-from-file=perhaps":       append(needed, "--env-from-file=perhaps"),
		"--image-volume=maybe":          append(needed, "--image-volume=maybe"),
		"reading the provider file":     append(needed, "--provider-file=/nowhere/providers.json"),
		"--namespace=":                  append(needed, "--namespace="),
		"unknown command":               append(needed, "serve"),
	} {
		t.Run(want, func(t *testing.T) {
			cmd := command()
			cmd.SetArgs(args)
			if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v, want an error about %s", args, err, want)
			}
		})
	}
}

// grantRights grants what the chart grants.
func grantRights(t *testing.T) {
	t.Helper()
	clients := kubernetes.NewForConfigOrDie(apiServer)
	_, err := clients.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "keyferry-system"}}, metav1.CreateOptions{})
	must(t, err)
	name := metav1.ObjectMeta{Name: "keyferry-webhook", Namespace: "keyferry-system"}
	user := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: account}}
	rbac := clients.RbacV1()
	_, err = rbac.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name.Name}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"keyferry.dev"}, Resources: []string{"targetclusters"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"keyferry.dev"}, Resources: []string{"locks", "clusterlocks"}, Verbs: []string{"list", "watch"}},
		{APIGroups: []string{"multicluster.x-k8s.io"}, Resources: []string{"clusterprofiles"}, Verbs: []string{"get"}},
		{APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"mutatingwebhookconfigurations"}, Verbs: []string{"list", "watch"}},
		{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}, Verbs: []string{"create"}},
		{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list"}},
	}}, metav1.CreateOptions{})
	must(t, err)
	_, err = rbac.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name.Name}, Subjects: user, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name.Name},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = rbac.Roles(name.Namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: name, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"podtemplates"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"services", "pods"}, Verbs: []string{"list"}},
	}}, metav1.CreateOptions{})
	must(t, err)
	_, err = rbac.Roles("default").Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name.Name}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"services"}, ResourceNames: []string{"kubernetes"}, Verbs: []string{"get"}},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, ResourceNames: []string{"kubernetes"}, Verbs: []string{"get"}},
	}}, metav1.CreateOptions{})
	must(t, err)
	for _, namespace := range []string{name.Namespace, "default"} {
		_, err = rbac.RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name.Name}, Subjects: user, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name.Name},
		}, metav1.CreateOptions{})
		must(t, err)
	}
}

// createHub creates ClusterProfile fleet/hub, whose server is the API server itself. ServiceAccount
// shop/default may use it.
func createHub(t *testing.T) {
	t.Helper()
	must(t, testenv.InstallClusterProfiles(apiServer))
	clients := kubernetes.NewForConfigOrDie(apiServer)
	_, err := clients.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fleet"}}, metav1.CreateOptions{})
	must(t, err)
	role := metav1.ObjectMeta{Namespace: "fleet", Name: "use-hub"}
	_, err = clients.RbacV1().Roles(role.Namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: role, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"multicluster.x-k8s.io"}, Resources: []string{"clusterprofiles"}, ResourceNames: []string{"hub"}, Verbs: []string{"use"}},
	}}, metav1.CreateOptions{})
	must(t, err)
	_, err = clients.RbacV1().RoleBindings(role.Namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: role, Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "shop", Name: "default"}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
	}, metav1.CreateOptions{})
	must(t, err)
	service, err := clients.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	must(t, err)
	scheme := runtime.NewScheme()
	must(t, inventory.AddToScheme(scheme))
	c, err := client.New(apiServer, client.Options{Scheme: scheme})
	must(t, err)
	profile := &inventory.ClusterProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "hub"},
		Spec:       inventory.ClusterProfileSpec{ClusterManager: inventory.ClusterManager{Name: "test"}},
	}
	must(t, c.Create(t.Context(), profile))
	profile.Status.AccessProviders = []inventory.AccessProvider{{Name: "hub", Cluster: clientcmdv1.Cluster{Server: "https://" + service.Spec.ClusterIP}}}
	must(t, c.Status().Update(t.Context(), profile))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFlagsAreDocumented(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "")
	generated.CheckCommand(t, command, *update)
}
