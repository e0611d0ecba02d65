// Package apitest runs the command as people do, by itself and as a plugin of kubectl, against a
// real API server.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli"
	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/cli/status"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/dnstest"
	"github.com/keyferry/keyferry/internal/testenv"
)

// asCommand in the environment makes this program the command. For it, names below example.com are
// this machine.
const asCommand = "KEYFERRY_TEST_AS_COMMAND"

// kubeconfig has the contexts management and other, both to the API server, in the namespaces app
// and default.
var kubeconfig []byte

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		net.DefaultResolver = dnstest.Resolver(func() netip.Addr { return netip.MustParseAddr("127.0.0.1") })
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		code := cli.Run(ctx, genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}, os.Args)
		stop()
		os.Exit(code)
	}
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		var err error
		kubeconfig, err = clientcmd.Write(clientcmdapi.Config{
			CurrentContext: "management",
			Contexts: map[string]*clientcmdapi.Context{
				"management": {Cluster: "a", AuthInfo: "admin", Namespace: "app"},
				"other":      {Cluster: "a", AuthInfo: "admin"},
			},
			Clusters:  map[string]*clientcmdapi.Cluster{"a": {Server: cfg.Host, CertificateAuthorityData: cfg.CAData}},
			AuthInfos: map[string]*clientcmdapi.AuthInfo{"admin": {ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}},
		})
		if err := errors.Join(err, testenv.InstallClusterProfiles(cfg), setUp(cfg)); err != nil {
			panic(err)
		}
	}))
}

// setUp makes Pods in the namespace app, one of which uses a TargetCluster in the namespace fleet,
// and a ClusterProfile there.
func setUp(cfg *rest.Config) error {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), inventory.AddToScheme(scheme)); err != nil {
		return err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	pod := func(name string, annotations map[string]string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, Annotations: annotations},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
		}
	}
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "app"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fleet"}},
		&v1alpha1.TargetCluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "tenant-1"},
			Spec: v1alpha1.TargetClusterSpec{
				Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "x"}},
				Issue:  v1alpha1.Issue{Type: v1alpha1.IssueAccess},
			},
		},
		&inventory.ClusterProfile{
			ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "paris"},
			Spec:       inventory.ClusterProfileSpec{ClusterManager: inventory.ClusterManager{Name: "manager"}},
		},
		pod("web-1", map[string]string{
			injector.AnnotationCluster: "fleet/tenant-1",
			injector.AnnotationStatus:  `{"clusters": ["fleet/tenant-1"], "delivery": "Direct", "containers": ["app"]}`,
		}),
		pod("web-2", nil),
		pod("jobs", nil),
	} {
		if err := c.Create(context.Background(), o); err != nil {
			return err
		}
	}
	return nil
}

// run runs a program of the PATH: keyferry, kubectl, and its plugin.
func run(t *testing.T, program string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return runWith(t, kubeconfig, program, args...)
}

// runWith runs a program with a kubeconfig.
func runWith(t *testing.T, kubeconfig []byte, program string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, home := t.TempDir(), t.TempDir()
	script, err := filepath.Abs("../../cmd/keyferry/kubectl_complete-keyferry")
	if err != nil {
		t.Fatal(err)
	}
	for name, is := range map[string]string{
		"keyferry": self, "kubectl-keyferry": self, "kubectl_complete-keyferry": script, "kubectl": filepath.Join(testenv.Assets(), "kubectl"),
	} {
		if err := os.Symlink(is, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(home, "kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, program), args...) // #nosec G204 -- for tests only
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+home, "KUBECONFIG="+file, asCommand+"=yes")
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func TestCompletion(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string
	}{
		"Pods":                   {[]string{"check", ""}, "jobs\nweb-1\nweb-2\n"},
		"Pods that begin so":     {[]string{"check", "web"}, "web-1\nweb-2\n"},
		"one Pod only":           {[]string{"check", "web-1", ""}, ""},
		"Pods of a namespace":    {[]string{"check", "-n", "fleet", ""}, ""},
		"Pods of a context":      {[]string{"check", "--context", "other", ""}, ""},
		"Pods of no context":     {[]string{"check", "--context", "missing", ""}, ""},
		"TargetClusters":         {[]string{"status", ""}, "fleet/tenant-1\n"},
		"further ones":           {[]string{"status", "fleet/tenant-1", ""}, ""},
		"a grant":                {[]string{"grant", ""}, "fleet/tenant-1\n"},
		"a grant of a profile":   {[]string{"grant", "--cluster-profile", ""}, "fleet/paris\n"},
		"a grant to somebody":    {[]string{"grant", "fleet/tenant-1", "app/d"}, ""},
		"a TargetCluster":        {[]string{"credential", "--target", "fl"}, "fleet/tenant-1\n"},
		"namespaces":             {[]string{"status", "-n", "f"}, "fleet\n"},
		"contexts":               {[]string{"status", "--context", ""}, "management\nother\n"},
		"users":                  {[]string{"status", "--user", ""}, "admin\n"},
		"clusters":               {[]string{"status", "--cluster", ""}, "a\n"},
		"output":                 {[]string{"status", "-o", ""}, "text\tfor people\njson\tfor programs\nyaml\tthe same as YAML\ncsv\tfor spreadsheets\n"},
		"commands":               {[]string{"st"}, "status\tShow the status of TargetClusters, the Pods that use them, and when credentials expire\n"},
		"commands by other name": {[]string{"credentials"}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := run(t, "keyferry", append([]string{"__complete"}, test.args...)...)
			got := stdout[:strings.LastIndex(stdout, ":")] // what is behind it is for the shell
			if code != cli.ExitOK || got != test.want {
				t.Errorf("got exit code %d, %q, %s", code, got, stderr)
			}
		})
	}
}

// TestCompletionScripts: there is one for each shell, and bash takes its.
func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			code, script, stderr := run(t, "keyferry", "completion", shell)
			if code != cli.ExitOK || !strings.Contains(script, "keyferry") {
				t.Fatalf("got exit code %d, %s", code, stderr)
			}
			if shell != "bash" {
				return // is not everywhere
			}
			check := exec.CommandContext(t.Context(), shell, "-n")
			check.Stdin = strings.NewReader(script)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func TestKubectlPlugin(t *testing.T) {
	code, stdout, stderr := run(t, "kubectl", "keyferry", "status", "--help")
	if code != cli.ExitOK || !strings.Contains(stdout, "\n  kubectl keyferry status [[NAMESPACE/]TARGETCLUSTER]... [flags]\n") {
		t.Errorf("got exit code %d, %s, %s", code, stdout, stderr)
	}
	if !strings.Contains(stdout, "\n  kubectl keyferry status -A --watch\n") || strings.Contains(stdout, "\n  keyferry ") {
		t.Errorf("examples: %s", stdout)
	}
	if _, _, stderr := run(t, "kubectl", "keyferry", "target", "show"); !strings.HasSuffix(stderr, "usage: kubectl keyferry target show [NAMESPACE/]NAME [flags]\nexamples and flags: kubectl keyferry target show --help\n") {
		t.Errorf("wrong usage: %s", stderr)
	}
	code, stdout, stderr = run(t, "kubectl", "__complete", "keyferry", "check", "web")
	if code != cli.ExitOK || !strings.HasPrefix(stdout, "web-1\nweb-2\n") {
		t.Errorf("got exit code %d, %s, %s", code, stdout, stderr)
	}
	if code, _, stderr := run(t, "kubectl", "keyferry", "check", "nobody"); code != 1 {
		t.Errorf("got exit code %d, %s", code, stderr)
	}
}

// TestCheckCluster: without Keyferry, the installation is what is wrong, and --pre finds nothing in
// the way. Without rights, it names them.
func TestCheckCluster(t *testing.T) {
	_, stdout, stderr := run(t, "keyferry", "check")
	if !strings.HasPrefix(stdout, "Installation\n✗ installation   the cluster has no MutatingWebhookConfiguration keyferry-webhook\n") || !strings.Contains(stdout, "keyferry check --pre") {
		t.Errorf("not installed: %s%s", stdout, stderr)
	}
	code, stdout, stderr := run(t, "keyferry", "check", "--pre")
	for _, want := range []string{
		"Cluster before the installation in namespace keyferry-system\n", "✓ API server     its version is v1.", "? nodes          there is no Linux node\n",
		"✓ installation   Keyferry is not installed yet\n", "✓ your rights    you may create all kinds of objects of the chart\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s%s", want, stdout, stderr)
		}
	}
	if code != 2 {
		t.Errorf("exit code %d", code)
	}
	if _, stdout, _ := run(t, "keyferry", "check", "--pre", "--as", "nobody"); !strings.Contains(stdout, "✗ your rights    you must not create namespaces, customresourcedefinitions, ") {
		t.Errorf("as nobody: %s", stdout)
	}
}

// TestOutput: what programs read is the same as JSON and as YAML, and has no colours, nor has what
// people read through a pipe.
func TestOutput(t *testing.T) {
	for _, format := range []string{"json", "yaml"} {
		t.Run(format, func(t *testing.T) {
			read := func(into any, args ...string) {
				t.Helper()
				_, stdout, stderr := run(t, "keyferry", append(args, "-o", format)...)
				if json.Valid([]byte(stdout)) != (format == "json") {
					t.Errorf("got %s, %s", stdout, stderr)
				}
				if err := yaml.UnmarshalStrict([]byte(stdout), into); err != nil {
					t.Errorf("%v: %s", err, stderr)
				}
			}
			var targets status.Report
			read(&targets, "status")
			if len(targets.Targets) != 1 || targets.Targets[0].Name != "tenant-1" || len(targets.Targets[0].Users) != 1 || targets.Targets[0].Users[0].Name != "web-1" {
				t.Errorf("got %+v", targets)
			}
			var chain check.Report
			read(&chain, "check", "web-1")
			if chain.Result != check.Wrong || chain.TargetCluster != "fleet/tenant-1" {
				t.Errorf("got %+v", chain)
			}
			var installed struct {
				Checks []check.Finding `json:"checks"`
			}
			read(&installed, "check-installation")
			if len(installed.Checks) < 2 || installed.Checks[0].Result != check.Wrong {
				t.Errorf("got %+v", installed)
			}
		})
	}
	for _, args := range [][]string{{"status"}, {"check", "web-1"}, {"check-installation"}} {
		if _, stdout, stderr := run(t, "keyferry", args...); stdout == "" || strings.Contains(stdout, "\x1b") {
			t.Errorf("%s: got %q, %s", args, stdout, stderr)
		}
	}
}

// TestExitCodes are those that docs/cli.md has.
func TestExitCodes(t *testing.T) {
	tests := map[string]struct {
		args []string
		want int
		says string
	}{
		"help":                       {nil, cli.ExitOK, ""},
		"version":                    {[]string{"--version"}, cli.ExitOK, ""},
		"status":                     {[]string{"status"}, cli.ExitOK, ""},
		"status of all":              {[]string{"status", "-A"}, cli.ExitOK, ""},
		"status of one":              {[]string{"status", "tenant-1", "-n", "fleet"}, cli.ExitOK, ""},
		"status for who may nothing": {[]string{"status", "--as", "nobody"}, cli.ExitOK, "warning: Pods are left out"},
		"status of none":             {[]string{"status", "tenant-1"}, cli.ExitFailed, "there is no TargetCluster app/tenant-1"},
		"status without a cluster":   {[]string{"status", "--context", "missing"}, cli.ExitFailed, "context was not found for specified context: missing"},
		"status of an empty name":    {[]string{"status", "fleet/"}, cli.ExitUsage, "write it as [NAMESPACE/]NAME"},
		"version of the client":      {[]string{"version", "--client", "--context", "missing"}, cli.ExitOK, ""},
		"version, not installed":     {[]string{"version"}, cli.ExitFailed, "the cluster has no MutatingWebhookConfiguration keyferry-webhook"},
		"target add without a name":  {[]string{"target", "add", "--context", "other"}, cli.ExitUsage, "keyferry target add fleet/tenant-1 --context TARGET"},
		"target add without target":  {[]string{"target", "add", "fleet/a"}, cli.ExitUsage, "add --context NAME, a context of your kubeconfig, or --kubeconfig FILE"},
		"target add to no context":   {[]string{"target", "add", "fleet/a", "--context", "missing"}, cli.ExitFailed, `has no context "missing"`},
		"target add, two identities": {[]string{"target", "add", "fleet/a", "--context", "other", "--mirror", "app", "--service-account", "a/b"}, cli.ExitUsage, "exclude each other"},
		"target add as access":       {[]string{"target", "add", "fleet/a", "--context", "other", "--service-account", "keyferry/b"}, cli.ExitUsage, "Pods must not act as these ServiceAccounts"},
		"target add, other CAs":      {[]string{"target", "add", "fleet/a", "--context", "other", "--well-known-ca-certificates", "Mine"}, cli.ExitUsage, `"Mine" is not known: use System`},
		"target import of nothing":   {[]string{"target", "import"}, cli.ExitUsage, "keyferry target import -f KUBECONFIG -n fleet"},
		"target import of no file":   {[]string{"target", "import", "-f", "missing"}, cli.ExitFailed, "missing: no such file"},
		"target list":                {[]string{"target", "list", "-A"}, cli.ExitOK, ""},
		"target show without a name": {[]string{"target", "show"}, cli.ExitUsage, "keyferry target show fleet/tenant-1"},
		"target show of none":        {[]string{"target", "show", "fleet/none"}, cli.ExitFailed, "there is no TargetCluster fleet/none"},
		"target add by http":         {[]string{"target", "add", "fleet/a", "--context", "other", "--endpoint", "http://a"}, cli.ExitUsage, "--endpoint has the scheme"},
		"grant without a name":       {[]string{"grant", "fleet/tenant-1"}, cli.ExitUsage, "keyferry grant fleet/tenant-1 app/web"},
		"grant of none":              {[]string{"grant", "fleet/none", "app/web"}, cli.ExitFailed, "there is no TargetCluster fleet/none"},
		"grant as a picture":         {[]string{"grant", "fleet/tenant-1", "app/web", "--dry-run=client", "-o", "png"}, cli.ExitUsage, "use yaml or json"},
		"grant, output only":         {[]string{"grant", "fleet/tenant-1", "app/web", "-o", "yaml"}, cli.ExitUsage, "add --dry-run=client"},
		"grant by the server":        {[]string{"grant", "fleet/tenant-1", "app/web", "--dry-run=server"}, cli.ExitUsage, "use none or client"},
		"grant to no namespace":      {[]string{"grant", "fleet/tenant-1", "a b/web"}, cli.ExitUsage, "is not the name of a ServiceAccount: write it as [NAMESPACE/]NAME"},
		"status as a picture":        {[]string{"status", "-o", "png"}, cli.ExitUsage, "use text, json, yaml or csv"},
		"status as a table":          {[]string{"status", "-o", "csv"}, cli.ExitOK, ""},
		"dashboard as a file":        {[]string{"dashboard", "--export", "/dev/null"}, cli.ExitOK, ""},
		"dashboard of no cluster":    {[]string{"dashboard", "--context", "missing"}, cli.ExitFailed, "context was not found for specified context: missing"},
		"dashboard at no port":       {[]string{"dashboard", "--port", "70000"}, cli.ExitUsage, "--port"},
		"check":                      {[]string{"check", "web-1"}, 1, ""},
		"check who may nothing":      {[]string{"check", "web-1", "--as", "nobody"}, 2, ""},
		"check without a cluster":    {[]string{"check", "web-1", "--context", "missing"}, 2, "missing"},
		"check pod/web-1":            {[]string{"check", "pod/web-1"}, 1, ""},
		"check a workload":           {[]string{"check", "deploy/web"}, 2, `deployments.apps "web" not found`},
		"check another kind":         {[]string{"check", "bogus/web"}, 2, "bogus"},
		"check, not installed":       {[]string{"check"}, 1, ""},
		"check for who may nothing":  {[]string{"check", "--as", "nobody"}, 2, "reading MutatingWebhookConfiguration"},
		"check of two Pods":          {[]string{"check", "web-1", "web-2"}, cli.ExitUsage, "one Pod or workload at a time"},
		"check before, of a Pod":     {[]string{"check", "web-1", "--pre"}, cli.ExitUsage, "--pre checks the cluster, not a Pod"},
		"check after, of a Pod":      {[]string{"check", "web-1", "--uninstall"}, cli.ExitUsage, "--uninstall checks the cluster, not a Pod"},
		"check before and after":     {[]string{"check", "--pre", "--uninstall"}, cli.ExitUsage, "--pre and --uninstall exclude each other"},
		"check after, as nobody":     {[]string{"check", "--uninstall", "--as", "nobody"}, 2, ""},
		"check before, as nobody":    {[]string{"check", "--pre", "--as", "nobody"}, 1, ""},
		"logs of no component":       {[]string{"logs", "sidecar"}, cli.ExitUsage, "keyferry logs [broker | controller | webhook]"},
		"logs, not installed":        {[]string{"logs"}, cli.ExitFailed, "the cluster has no MutatingWebhookConfiguration"},
		"events":                     {[]string{"events", "-A"}, cli.ExitOK, ""},
		"events as nobody":           {[]string{"events", "--as", "nobody"}, cli.ExitFailed, "reading Events"},
		"check-installation":         {[]string{"check-installation"}, cli.ExitFailed, "not everything works"},
		"inject":                     {[]string{"inject", "-f", "../testdata/inject/untouched.yaml"}, cli.ExitOK, ""},
		"inject nothing":             {[]string{"inject", "-f", "missing.yaml"}, cli.ExitFailed, "no such file"},
		"inject without a file":      {[]string{"inject"}, cli.ExitUsage, "usage: keyferry inject -f FILE"},
		"credential of nothing":      {[]string{"credential"}, cli.ExitUsage, "the TargetCluster is missing"},
		"credential out of a Pod":    {[]string{"credential", "--target", "fleet/tenant-1"}, cli.ExitFailed, "to issue offline"},
		"convert":                    {[]string{"convert", "-f", "../convert/testdata/full.yaml"}, cli.ExitOK, "warning: "},
		"convert another kind":       {[]string{"convert", "-f", "../testdata/inject/untouched.yaml"}, cli.ExitFailed, "converts only DPUServiceCredentialRequest"},
		"another command":            {[]string{"stauts"}, cli.ExitUsage, "status"},
		"another flag":               {[]string{"status", "--al"}, cli.ExitUsage, "unknown flag"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := run(t, "keyferry", test.args...)
			if code != test.want || !strings.Contains(stderr, test.says) {
				t.Errorf("got exit code %d, %q", code, stderr)
			}
		})
	}
}
