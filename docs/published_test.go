package docs_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Pages install and verify a published release. Tests publish one to a registry on this machine:
// with small programs instead of Keyferry's, and signed with a key instead of the identity of a
// workflow.

// fromRelease finds pages that need a published release.
var fromRelease = regexp.MustCompile(`oci://|ghcr\.io/keyferry|/releases/download/`)

// published is a release in the registry of the tests, with the programs that use it.
type published struct {
	// environment makes programs find the registry at ghcr.io, and the files of the release at
	// github.com.
	environment []string
	// version is the release's, such as v1.2.3, and key cosign's public key.
	version, key string
	// input is that of the servers, which run until it is closed.
	input io.Closer
	err   error
}

// publish publishes a release of the chart's version, once for all tests. The servers run until
// this process ends.
var publish = sync.OnceValue(func() published {
	dir := filepath.Join(work, "published")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return published{err: err}
	}
	p, err := publishTo(dir)
	if err != nil {
		p.err = fmt.Errorf("publishing a release for the tests: %w", err)
	}
	return p
})

func publishTo(dir string) (published, error) {
	chart, err := os.ReadFile(filepath.Join(root, "charts", "keyferry", "Chart.yaml"))
	if err != nil {
		return published{}, err
	}
	version := string(regexp.MustCompile(`(?m)^appVersion: (.+)$`).FindSubmatch(chart)[1])
	files := filepath.Join(dir, "release")
	if err := os.Mkdir(files, 0o700); err != nil {
		return published{}, err
	}
	module := filepath.Join(root, "tools", "publish")
	for _, cmd := range []*exec.Cmd{
		exec.Command(filepath.Join(module, "testdata", "release.sh"), version, files),
		exec.Command("go", "build", "-C", module, "-o", dir, ".", "./cmd/loopback"),
		exec.Command(filepath.Join(root, "tools", "run"), "cosign", "generate-key-pair", "--output-key-prefix", filepath.Join(dir, "cosign")),
	} {
		cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return published{}, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, out)
		}
	}
	p := published{version: version, key: filepath.Join(dir, "cosign.pub")}
	if err := p.serve(dir, files, version); err != nil {
		return p, err
	}
	cmd := exec.Command(filepath.Join(dir, "publish"), "-release", files, "-registry", "ghcr.io/keyferry", "-version", version, "-key", filepath.Join(dir, "cosign.key"))
	cmd.Dir = module
	cmd.Env = slices.Concat(os.Environ(), p.environment, []string{"COSIGN_PASSWORD="})
	if out, err := cmd.CombinedOutput(); err != nil {
		return p, fmt.Errorf("publish: %w\n%s", err, out)
	}
	return p, nil
}

// serve starts the servers, and reads the environment that they print.
func (p *published) serve(dir, files, version string) error {
	cmd := exec.Command(filepath.Join(dir, "loopback"), "-files", files, "-version", version, "-dir", dir)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if p.input, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if lines.Text() == "" {
			return nil
		}
		p.environment = append(p.environment, strings.TrimPrefix(lines.Text(), "export "))
	}
	return errors.New("the servers have ended")
}

// release makes the published release available to the reader of a page that needs it.
func (r *reader) release(t *testing.T, page string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	if !fromRelease.Match(content) {
		return
	}
	p := publish()
	if p.err != nil {
		t.Fatal(p.err)
	}
	r.environment = append(slices.Clone(p.environment), "RELEASE="+p.version, "COSIGN_PUBLIC_KEY="+p.key, "COSIGN="+tools(t)["cosign"])
}

// identity returns the options with which users say whose signature they accept.
func identity() []string {
	return []string{
		"--certificate-identity=https://github.com/keyferry/keyferry/.github/workflows/release.yml@refs/tags/" + os.Getenv("RELEASE"),
		"--certificate-oidc-issuer=https://token.actions.githubusercontent.com",
	}
}

// cosignCommand runs cosign as a page says. To verify, only the identity of the workflow is
// replaced, by the key of the tests.
func cosignCommand(args []string) error {
	if !strings.HasPrefix(args[0], "verify") {
		return runCosign(args)
	}
	for _, option := range identity() {
		i := slices.Index(args, option)
		if i < 0 {
			return fmt.Errorf("cosign %s accepts signatures by others: %s is missing", args[0], option)
		}
		args = slices.Delete(args, i, i+1)
	}
	return runCosign(append(args, "--key", os.Getenv("COSIGN_PUBLIC_KEY"), "--insecure-ignore-tlog"))
}

// runCosign runs the real cosign.
func runCosign(args []string) error {
	cmd := exec.Command(os.Getenv("COSIGN"), args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
