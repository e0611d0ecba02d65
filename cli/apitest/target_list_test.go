package apitest

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/cli"
	"github.com/keyferry/keyferry/cli/targetinfo"
)

// TestTargetListAndShow: of a TargetCluster that add made and of another one.
func TestTargetListAndShow(t *testing.T) {
	w := newTwoClusters(t)
	defer w.remove()
	w.addOK()
	if code, _, stderr := runWith(t, w.kubeconfig, "keyferry", "grant", "fleet/tenant-9", "app/web", "app/worker"); code != cli.ExitOK {
		t.Fatal(stderr)
	}
	defer runWith(t, w.kubeconfig, "keyferry", "revoke", "fleet/tenant-9", "app/web", "app/worker")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "shown-user", Annotations: map[string]string{
			"keyferry.dev/status": `{"clusters": ["fleet/tenant-9"], "delivery": "Direct", "containers": ["app"]}`,
		}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	create(t, w.management, pod)

	code, stdout, stderr := run(t, "keyferry", "target", "list", "-n", "fleet")
	want := []string{
		"TARGET READY REASON ACCESS PODS ARE MADE BY ENDPOINT",
		"fleet/tenant-1 True Ready Kubeconfig the identity of the access credential - -",
		"fleet/tenant-9 True Ready Kubeconfig ServiceAccount keyferry-pods/fleet.tenant-9 keyferry -",
	}
	if got := cells(stdout); code != cli.ExitOK || !slices.Equal(got, want) {
		t.Errorf("list: exit code %d, %s\ngot  %q\nwant %q", code, stderr, got, want)
	}
	if _, stdout, _ := run(t, "keyferry", "target", "list", "-n", "app"); stdout != "there are no TargetClusters: keyferry target add registers one\n" {
		t.Errorf("an empty list: %s", stdout)
	}

	code, stdout, stderr = run(t, "keyferry", "target", "show", "fleet/tenant-9")
	want = []string{
		"TargetCluster fleet/tenant-9",
		"Ready True Ready",
		"Endpoint -",
		"Delivery -",
		"Version -",
		"Cluster UID -",
		"Access Kubeconfig",
		"Secret tenant-9",
		"Pods are ServiceAccount keyferry-pods/fleet.tenant-9",
		"Made by keyferry",
		"Granted to app/web, app/worker",
		"",
		"CONDITION STATUS REASON MESSAGE",
		"Resolved True Resolved -",
		"Reachable True Reachable -",
		"Ready True Ready -",
		"",
		"USER SERVICEACCOUNT STATE",
		"Pod app/shown-user default Pending",
	}
	if got := cells(stdout); code != cli.ExitOK || !slices.Equal(got, want) {
		t.Errorf("show: exit code %d, %s\ngot  %q\nwant %q", code, stderr, got, want)
	}
	var details targetinfo.Details
	_, stdout, stderr = run(t, "keyferry", "target", "show", "fleet/tenant-9", "-o", "yaml")
	if err := yaml.UnmarshalStrict([]byte(stdout), &details); err != nil || !details.Managed || len(details.Users) != 1 {
		t.Errorf("%v, %s\n%s", err, stderr, stdout)
	}
	code, stdout, stderr = run(t, "keyferry", "target", "show", "fleet/tenant-9", "--as", "nobody")
	if code != cli.ExitFailed || stdout != "" || !strings.Contains(stderr, "forbidden") {
		t.Errorf("without rights: exit code %d, %s%s", code, stdout, stderr)
	}
}

// cells are the lines of a table, with one blank between two columns.
func cells(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

// TestTargetImport: each context becomes a TargetCluster, except the management cluster. One that
// cannot does not keep the others from it.
func TestTargetImport(t *testing.T) {
	w := newTwoClusters(t)
	config, err := clientcmd.Load(w.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	write := func() string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "targets")
		if err := clientcmd.WriteToFile(*config, file); err != nil {
			t.Fatal(err)
		}
		return file
	}
	config.Clusters["b"] = &clientcmdapi.Cluster{Server: w.byName(), TLSServerName: "localhost", CertificateAuthorityData: w.target.CAData}
	config.Clusters["a"].Server, config.Clusters["a"].TLSServerName = strings.Replace(config.Clusters["a"].Server, "127.0.0.1", "management.example.com", 1), "localhost"
	config.AuthInfos["acme"] = &clientcmdapi.AuthInfo{Exec: &clientcmdapi.ExecConfig{Command: "acme-login", APIVersion: "client.authentication.k8s.io/v1"}}
	config.Contexts = map[string]*clientcmdapi.Context{
		"management":    {Cluster: "a", AuthInfo: "admin"},
		"Team_B@tenant": {Cluster: "b", AuthInfo: "target"},
		"acme":          {Cluster: "b", AuthInfo: "acme"},
		"imported-2":    {Cluster: "b", AuthInfo: "target"},
	}
	names := []string{"team-b-tenant", "imported-2"}
	defer func() {
		for _, name := range names {
			if code, _, stderr := runWith(t, w.kubeconfig, "keyferry", "target", "remove", "fleet/"+name, "--context", "by-name"); code != cli.ExitOK {
				t.Error(stderr)
			}
		}
	}()
	imports := func(args ...string) (int, string, string) {
		return runWith(t, w.kubeconfig, "keyferry", append([]string{"target", "import", "-n", "fleet", "-f"}, args...)...)
	}

	code, stdout, stderr := imports(write(), "--dry-run=client", "-o", "yaml")
	if code != cli.ExitFailed || !strings.Contains(stdout, "# Context Team_B@tenant\n# In the target\n") || len(w.made()) > 0 {
		t.Errorf("a dry run: exit code %d\n%s%s\nmade %q", code, stdout, stderr, w.made())
	}
	code, stdout, stderr = imports(write(), "--role", "view")
	for _, want := range []string{
		"TargetCluster fleet/imported-2 is ready", "TargetCluster fleet/team-b-tenant is ready", "  keyferry grant fleet/imported-2 NAMESPACE/SERVICEACCOUNT\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	for _, want := range []string{
		"context management: it is the management cluster: it is left out\n", `error: context acme: kubeconfig `, `the program is "acme-login"`, "error: 1 of 4 contexts failed\n",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in\n%s", want, stderr)
		}
	}
	if code != cli.ExitFailed {
		t.Errorf("exit code %d", code)
	}
	code, stdout, stderr = imports(write(), "--role", "view", "--context", "imported-2")
	if code != cli.ExitOK || strings.Contains(stdout, "created") || strings.Contains(stdout, "team-b-tenant") {
		t.Errorf("run again for one of them: exit code %d\n%s%s", code, stdout, stderr)
	}

	config.Contexts["team.b"], config.Contexts["TEAM.B"] = config.Contexts["imported-2"], config.Contexts["imported-2"]
	code, stdout, stderr = imports(write())
	if code != cli.ExitFailed || stdout != "" || !strings.Contains(stderr, `the contexts "TEAM.B" and "team.b" would both become TargetCluster fleet/team.b`) {
		t.Errorf("two of the same name: exit code %d\n%s%s", code, stdout, stderr)
	}
}
