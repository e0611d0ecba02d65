package apitest

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli"
	"github.com/keyferry/keyferry/internal/testenv"
)

// TestTargetAddOfClouds: of a kubeconfig that names a program, the TargetCluster has the access
// type that gets the same credential, as the API server accepts it. The key stays yours.
func TestTargetAddOfClouds(t *testing.T) {
	management := administrator(t)
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	defer testenv.MarkReady(t, cfg)()
	key := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "cloud"}}
	create(t, management, key)
	for name, test := range map[string]struct {
		exec string // command and arguments
		want v1alpha1.AccessType
	}{
		"EKS":          {"command: aws, args: [--region, eu-central-1, eks, get-token, --cluster-name, tenant-1]", v1alpha1.AccessEKS},
		"GKE":          {"command: gke-gcloud-auth-plugin", v1alpha1.AccessGKE},
		"AKS":          {"command: kubelogin, args: [get-token, --server-id, 6dae42f8-4368-4678-94ff-3960e28e3630]", v1alpha1.AccessAKS},
		"NCP":          {"command: ncp-iam-authenticator, args: [token, --clusterUuid, d11328f1-eca9-4f1b-ba22-921f61d9c5ff, --region, KR]", v1alpha1.AccessNCP},
		"CB-Spider":    {`command: sh, args: [-c, "curl http://spider.example.com:1024/spider/cluster/a/token?ConnectionName=b"]`, v1alpha1.AccessSpider},
		"CB-Tumblebug": {"command: curl, args: [-s, http://tb.example.com:1323/tumblebug/ns/default/k8sCluster/a/token]", v1alpha1.AccessTumblebug},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "target")
			text := `current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: "https://203.0.113.7:6443", certificate-authority-data: ` + base64.StdEncoding.EncodeToString(cfg.CAData) + `}}]
users: [{name: a, user: {exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, ` + test.exec + "}}}]\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			add := func(args ...string) (int, string, string) {
				return run(t, "keyferry", append([]string{"target", "add", "fleet/cloud", "--kubeconfig", file, "--service-account", "robots/robot"}, args...)...)
			}
			for want, args := range map[string][]string{
				"management cluster: --credentials: reading Secret fleet/none": {"--credentials", "none"},
				"cannot bind a role in the target":                             {"--credentials", "cloud", "--role", "view"},
				"use --endpoint to set another address of the target":          {"--credentials", "cloud", "--endpoint", "https://127.0.0.1:6443"},
				"--output works only with --dry-run=client":                    {"--credentials", "cloud", "-o", "yaml"},
			} {
				if code, stdout, stderr := add(args...); code == cli.ExitOK || stdout != "" || !strings.Contains(stderr, want) {
					t.Errorf("%q: exit code %d\n%s%s", args, code, stdout, stderr)
				}
			}
			if code, stdout, stderr := add("--credentials", "cloud"); code != cli.ExitOK || !strings.Contains(stdout, "TargetCluster fleet/cloud is ready\n") ||
				!strings.Contains(stderr, "warning: the command created nothing in the target") {
				t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
			}
			tc := &v1alpha1.TargetCluster{}
			if err := management.Get(t.Context(), client.ObjectKeyFromObject(key), tc); err != nil {
				t.Fatal(err)
			}
			if tc.Spec.Access.Type != test.want || !bytes.Equal(tc.Spec.Endpoint.CertificateAuthorityData, cfg.CAData) || tc.Spec.Issue.TokenRequest.ServiceAccount.Name != "robot" {
				t.Errorf("made %+v", tc.Spec)
			}
			if code, stdout, stderr := run(t, "keyferry", "target", "remove", "fleet/cloud"); code != cli.ExitOK {
				t.Errorf("remove: exit code %d\n%s%s", code, stdout, stderr)
			}
			if err := management.Get(t.Context(), client.ObjectKeyFromObject(key), tc); !apierrors.IsNotFound(err) {
				t.Errorf("the TargetCluster is left: %v", err)
			}
			if err := management.Get(t.Context(), client.ObjectKeyFromObject(key), &corev1.Secret{}); err != nil {
				t.Errorf("the key was removed: %v", err)
			}
		})
	}
}
