package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/webhook"
)

const account = "system:serviceaccount:keyferry-system:keyferry-webhook"

var apiServer *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { apiServer = cfg }))
}

// TestServesAndStops runs the whole command with the rights that it has in a cluster and no other: it gets ready, answers, counts,
// and ends when its context does.
func TestServesAndStops(t *testing.T) {
	grantRights(t)
	certDir := t.TempDir()
	roots := writeCertificate(t, certDir)
	t.Setenv("KUBECONFIG", writeKubeconfig(t, account))
	port, health, metrics := freePort(t), "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)

	cmd := command()
	cmd.SetArgs([]string{
		"--namespace=keyferry-system", "--cert-dir=" + certDir, "--port=" + port, "--health-address=" + health, "--metrics-address=" + metrics,
		"--refresher-image=keyferry.example/refresher:v1", "--broker-url=https://keyferry-broker.keyferry-system.svc", "--log-level=1",
		`--refresher-resources={"limits":{"memory":"64Mi"}}`,
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()

	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		select {
		case err := <-ended:
			t.Fatalf("ended early: %v", err)
		default:
		}
		code, _ := request(t, http.DefaultClient, http.MethodGet, "http://"+health+"/readyz", "")
		return code == http.StatusOK, nil
	})
	if err != nil {
		_, why := request(t, http.DefaultClient, http.MethodGet, "http://"+health+"/readyz?verbose", "")
		t.Fatalf("not ready: %v: %s", err, why)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}}
	const review = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","namespace":"shop","operation":"CREATE","resource":{"version":"v1","resource":"pods"},` +
		`"object":{"metadata":{"annotations":{"keyferry.dev/cluster":"fleet/tenant-1"}},"spec":{"containers":[{"name":"app"}]}}}}`
	code, body := request(t, client, http.MethodPost, "https://127.0.0.1:"+port+webhook.PathPods+"?timeout=10s", review)
	if code != http.StatusOK || !strings.Contains(body, "ServiceAccount shop/default may not use TargetCluster fleet/tenant-1") {
		t.Errorf("code %d: %s", code, body)
	}
	_, counted := request(t, http.DefaultClient, http.MethodGet, "http://"+metrics+"/metrics", "")
	for _, want := range []string{
		`keyferry_admission_requests_total{outcome="denied",reason="Forbidden",webhook="pods"} 1`,
		`keyferry_admission_env_from_file 0`, // there are no nodes
	} {
		if !strings.Contains(counted, want) {
			t.Errorf("no %s", want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("stopping: %v", err)
	}
}

func TestWrongFlags(t *testing.T) {
	t.Setenv("KUBECONFIG", writeKubeconfig(t, ""))
	t.Setenv("POD_NAMESPACE", "")
	needed := []string{"--refresher-image=i", "--broker-url=https://broker", "--health-address=0", "--metrics-address=0", "--namespace=keyferry-system"}
	for want, args := range map[string][]string{
		"broker-url":                    {"--refresher-image=i"},
		"refresher-image":               {"--broker-url=https://broker"},
		"--log-level":                   append(needed, "--log-level=2"),
		"--broker-url=http://broker":    append(needed, "--broker-url=http://broker"),
		"--refresher-resources":         append(needed, "--refresher-resources={"),
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
	}}, metav1.CreateOptions{})
	must(t, err)
	_, err = rbac.RoleBindings(name.Namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: name, Subjects: user, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name.Name},
	}, metav1.CreateOptions{})
	must(t, err)
}

// request returns code 0 where nothing answers.
func request(t *testing.T, client *http.Client, method, url, body string) (code int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	must(t, err)
	response, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, string(text)
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("listens on a %T", listener.Addr())
	}
	return strconv.Itoa(address.Port)
}

// writeKubeconfig writes one of the administrator, who acts as another user if that is not empty.
func writeKubeconfig(t *testing.T, as string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: apiServer.Host, CertificateAuthorityData: apiServer.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {ClientCertificateData: apiServer.CertData, ClientKeyData: apiServer.KeyData, Impersonate: as}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, path))
	return path
}

// writeCertificate writes the one for 127.0.0.1 that httptest brings, and returns what verifies it.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	key, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	must(t, err)
	for file, block := range map[string]*pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: server.Certificate().Raw},
		"tls.key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		must(t, os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600))
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return roots
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
