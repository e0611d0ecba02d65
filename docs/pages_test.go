package docs_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/cli"
	"github.com/keyferry/keyferry/internal/testenv"
)

var shared *rest.Config // an API server with Keyferry's CRDs and those of others

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "keyferry" { // as which a page calls it
		streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
		os.Exit(cli.Run(context.Background(), streams, os.Args))
	}
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		ctrllog.SetLogger(logr.Discard())
		shared = cfg
		for _, err := range []error{testenv.InstallClusterProfiles(cfg), testenv.InstallCertManager(cfg)} {
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}))
}

// fresh are the pages that install Keyferry: each is followed from the beginning, on an API server that has nothing of it.
var fresh = []string{"README.md", "docs/operations.md", "docs/quick-start.md"}

// TestPages follows each page from top to bottom: its YAML is applied or checked, its commands are run.
func TestPages(t *testing.T) {
	testenv.DependOn(t, filepath.Join(root, "charts"), filepath.Join(root, "config"))
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
							r.run(t, b.text)
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
}

func newReader(t *testing.T, page string) *reader {
	t.Helper()
	r := &reader{cluster: shared, dir: t.TempDir()}
	if slices.Contains(fresh, page) {
		r.cluster = testenv.Target(t, "")
	}
	bin := t.TempDir()
	for name, program := range tools(t) {
		if err := os.Symlink(program, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.path = bin + ":" + os.Getenv("PATH")
	for _, dir := range []string{"charts", "config"} {
		target, err := filepath.Abs(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(r.dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(r.dir, os.DirFS("testdata/home")); err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := os.ReadFile(kubeconfigOf(testenv.Kubectl(t, r.cluster, r.dir)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "target.kubeconfig"), kubeconfig, 0o600); err != nil { // the target is the same cluster
		t.Fatal(err)
	}
	if r.cluster == shared {
		for _, file := range []string{"there.yaml", "home/tenant-1.yaml"} {
			content, err := os.ReadFile(filepath.Join("testdata", file))
			if err != nil {
				t.Fatal(err)
			}
			r.kubectlApply(t, string(content))
		}
	}
	return r
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
	cmd := testenv.Kubectl(t, r.cluster, r.dir, "apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// run runs a script as if it were typed: it fails where a command does.
func (r *reader) run(t *testing.T, script string) {
	t.Helper()
	all, err := commands(script)
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range all {
		if slices.Contains(clouds, words[0]) {
			t.Fatalf("%s talks to a cloud: say so in a comment above the block, <!-- not run: … -->", words[0])
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-eo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = r.dir, slices.Concat(testenv.Kubectl(t, r.cluster, r.dir).Env, []string{"PATH=" + r.path, "HOME=" + r.dir})
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
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
