package docs_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/cli"
	"github.com/keyferry/keyferry/internal/testenv"
)

var (
	shared *rest.Config // an API server with Keyferry's CRDs and those of others
	work   string       // a directory that is removed when all tests have ended
)

func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); { // as which a page calls it
	case name == "keyferry":
		streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
		args := os.Args
		if len(args) > 2 && args[1] == "target" && args[2] == "add" {
			args = append(args, "--endpoint=https://tenant-1.example.com:6443") // the cluster of the tests is at loopback
		}
		os.Exit(cli.Run(context.Background(), streams, args))
	case name == "cosign":
		if err := cosignCommand(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case slices.Contains(standIns, name):
		if err := standIn(os.Stdout, os.Args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(0)
	}
	var err error
	if work, err = os.MkdirTemp("", "keyferry-docs-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := testenv.Run(m, func(cfg *rest.Config) {
		shared = cfg
		_, dpf := envtest.InstallCRDs(cfg, envtest.CRDInstallOptions{Paths: []string{"testdata/dpf.yaml"}})
		for _, err := range []error{testenv.InstallClusterProfiles(cfg), testenv.InstallCertManager(cfg), dpf} {
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	})
	_ = os.RemoveAll(work)
	os.Exit(code)
}

// fresh are the pages that install Keyferry: each is followed from the beginning, on an API server
// that has nothing of it.
var fresh = []string{
	"README.md", "charts/keyferry/README.md", "docs/air-gapped.md", "docs/quick-start.md", "docs/tasks/argo-cd.md", "docs/tasks/flux.md",
	"docs/tasks/install.md", "docs/tasks/size.md", "docs/tasks/tenants.md", "docs/tasks/uninstall.md", "docs/tasks/upgrade.md",
}

// installed are those of them for readers who have installed Keyferry already.
var installed = []string{"docs/tasks/uninstall.md", "docs/tasks/upgrade.md"}

// TestPages follows each page from top to bottom: its YAML is applied or checked, its commands are
// run.
func TestPages(t *testing.T) {
	for _, dir := range []string{"charts", "config", "tools/chart", "tools/images", "tools/publish", "tools/release"} {
		testenv.DependOn(t, filepath.Join(root, dir))
	}
	for _, page := range pages(t) {
		t.Run(page, func(t *testing.T) { // one after the other: pages use the same names
			r := newReader(t, page)
			blocks, _ := read(t, page)
			for _, b := range blocks {
				t.Run(fmt.Sprint(b.line), func(t *testing.T) {
					switch b.lang {
					case "yaml":
						for _, document := range documents(t, b) {
							checkYAML(t, document, r.apply)
						}
					case "json":
						checkJSON(t, b)
					case "sh":
						if b.notRun == "" {
							r.run(t, b.text, b.code)
						}
					}
				})
			}
		})
	}
}

// reader is somebody who does what a page says, at a shell in a folder of their own.
type reader struct {
	cluster *rest.Config
	dir     string
	path    string
	// goProgram is the real go, for which there is a stand-in.
	goProgram string

	kubeconfig string
	repository string
	// environment is empty unless the page needs a published release.
	environment []string
}

func newReader(t *testing.T, page string) *reader {
	t.Helper()
	r := &reader{cluster: shared, dir: t.TempDir()}
	if slices.Contains(fresh, page) {
		r.cluster = testenv.Target(t, "")
	}
	var err error
	if r.goProgram, err = exec.LookPath("go"); err != nil {
		t.Fatal(err)
	}
	r.path = programsFor(t) + ":" + os.Getenv("PATH")
	r.release(t, page)
	r.linkRepository(t)
	if err := os.CopyFS(r.dir, os.DirFS("testdata/home")); err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := os.ReadFile(kubeconfigOf(testenv.Kubectl(t, r.cluster, r.dir)))
	if err != nil {
		t.Fatal(err)
	}
	r.writeKubeconfig(t, kubeconfig)
	for _, name := range []string{"target.kubeconfig", "e2e/.run/management.kubeconfig", "e2e/.run/target.kubeconfig"} { // all are the same cluster
		if err := os.WriteFile(filepath.Join(r.dir, name), kubeconfig, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r.cluster == shared {
		r.kubectl(t, "", "delete", "secrets,targetclusters.keyferry.dev", "--all", "--namespace", "fleet") // of the page before
		r.kubectlApply(t, contentOf(t, "there.yaml"))
		r.kubectlApply(t, contentOf(t, "home/tenant-1.yaml"))
		r.kubectl(t, contentOf(t, "status.yaml"), "replace", "--subresource", "status", "-f", "-")
	}
	if slices.Contains(installed, page) {
		r.run(t, "helm install keyferry charts/keyferry -n keyferry-system --create-namespace", 0)
	}
	return r
}

// writeKubeconfig writes the reader's own kubeconfig: the current context is the management
// cluster, and tenant-1 the target, which is the same cluster here.
func (r *reader) writeKubeconfig(t *testing.T, kubeconfig []byte) {
	t.Helper()
	config, err := clientcmd.Load(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Contexts["tenant-1"] = config.Contexts[config.CurrentContext]
	r.kubeconfig = filepath.Join(r.dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, r.kubeconfig); err != nil {
		t.Fatal(err)
	}
}

func contentOf(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// programsFor is a folder with the programs that pages call, and stand-ins for those that no test
// can run.
func programsFor(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	all := maps.Clone(tools(t))
	for _, name := range slices.Concat(standIns, []string{"cosign"}) {
		all[name] = self // see TestMain
	}
	for name, program := range all {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// linkRepository makes the reader's folder look like the repository, with clusters for end-to-end
// tests that are up.
func (r *reader) linkRepository(t *testing.T) {
	t.Helper()
	repository, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"broker", "charts", "cmd", "config", "injector", "tools"} {
		if err := os.Symlink(filepath.Join(repository, name), filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(r.dir, "e2e", ".run"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.repository = repository
}

// apply applies an object, in a namespace that is made if it is not there.
func (r *reader) apply(t *testing.T, o object) {
	t.Helper()
	content, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	metadata, _ := o["metadata"].(object)
	if namespace, ok := metadata["namespace"].(string); ok {
		r.kubectlApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: "+namespace+"}}")
	}
	r.kubectlApply(t, string(content))
}

// kubectlApply has the API server refuse unknown fields, too.
func (r *reader) kubectlApply(t *testing.T, manifest string) {
	t.Helper()
	r.kubectl(t, manifest, "apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-")
}

func (r *reader) kubectl(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := testenv.Kubectl(t, r.cluster, r.dir, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// run runs a script as if it were typed: it ends where a command does with an exit code other than
// 0. That of the script has to be want.
func (r *reader) run(t *testing.T, script string, want int) {
	t.Helper()
	defer withNodes(t, r.cluster)()
	cmd := exec.CommandContext(t.Context(), "bash", "-eo", "pipefail", "-c", script)
	cmd.Dir = r.dir
	cmd.Env = slices.Concat(testenv.Kubectl(t, r.cluster, r.dir).Env, r.environment, []string{"KUBECONFIG=" + r.kubeconfig, "PATH=" + r.path, "HOME=" + r.dir, "REPOSITORY=" + r.repository, "GO=" + r.goProgram, "COSIGN_PASSWORD="})
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
		t.Errorf("%v\n%s\n%s", err, script, out.String())
	}
}

// kubeconfigOf is the file that a command has in its environment.
func kubeconfigOf(cmd *exec.Cmd) string {
	file := ""
	for _, variable := range cmd.Env {
		if value, ok := strings.CutPrefix(variable, "KUBECONFIG="); ok {
			file = value
		}
	}
	return file
}
