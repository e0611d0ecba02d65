package release

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/keyferry/keyferry/e2e/cluster"
)

// Registry is a registry on this machine in place of ghcr.io, to which releases are published, and
// from which Helm and the nodes of a cluster pull.
type Registry struct {
	dir         string
	environment []string
	url         string
	servers     *exec.Cmd
	input       io.Closer
}

// ServeRegistry starts an empty registry. The nodes of the cluster use it until it is closed.
// Progress goes to log.
func ServeRegistry(ctx context.Context, log io.Writer, c *cluster.Cluster) (_ *Registry, err error) {
	address, err := c.Gateway(ctx)
	if err != nil {
		return nil, err
	}
	r := &Registry{dir: filepath.Join(cluster.Dir(), "registry")}
	if err := errors.Join(os.RemoveAll(r.dir), os.MkdirAll(r.dir, 0o750)); err != nil {
		return nil, err
	}
	fmt.Fprintln(log, "compiling tools/publish and cosign")
	for _, args := range [][]string{
		{"go", "build", "-C", filepath.Join(Root(), "tools", "publish"), "-o", r.dir, ".", "./cmd/loopback"},
		{filepath.Join(Root(), "tools", "run"), "cosign", "generate-key-pair", "--output-key-prefix", filepath.Join(r.dir, "cosign")},
	} {
		if err := r.command(ctx, args...); err != nil {
			return nil, err
		}
	}
	if err := r.serve(ctx, log, address); err != nil {
		return nil, fmt.Errorf("starting a registry: %w", err)
	}
	if err := c.PullFrom(ctx, "ghcr.io", r.url); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// serve starts the servers, and reads the environment that they print.
func (r *Registry) serve(ctx context.Context, log io.Writer, address string) error {
	// They end with their input, which Close closes; or this process, when it ends.
	r.servers = exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(r.dir, "loopback"), "-dir", r.dir, "-nodes", address)
	r.servers.Stderr = log
	stdout, err := r.servers.StdoutPipe()
	if err != nil {
		return err
	}
	if r.input, err = r.servers.StdinPipe(); err != nil {
		return err
	}
	if err := r.servers.Start(); err != nil {
		return err
	}
	if err := r.readEnvironment(stdout); err != nil {
		return errors.Join(err, r.Close())
	}
	return nil
}

// readEnvironment reads lines "export NAME=VALUE" up to an empty line.
func (r *Registry) readEnvironment(stdout io.Reader) error {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "" {
		variable, isExport := strings.CutPrefix(lines.Text(), "export ")
		name, value, isSet := strings.Cut(variable, "=")
		if !isExport || !isSet {
			return fmt.Errorf("the servers printed %q, want export NAME=VALUE", lines.Text())
		}
		r.environment = append(r.environment, variable)
		if name == "REGISTRY" {
			r.url = value
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the servers' environment: %w", err)
	}
	if r.url == "" {
		return errors.New("the servers ended, or printed no REGISTRY")
	}
	return nil
}

// Close ends the registry.
func (r *Registry) Close() error {
	return errors.Join(r.input.Close(), r.servers.Wait())
}

// Publish builds and publishes a release of the source tree in root, for this machine's
// architecture, with the programs of that tree. It is signed with a key.
func (r *Registry) Publish(ctx context.Context, log io.Writer, root, version, arch string) error {
	files := filepath.Join(r.dir, version)
	fmt.Fprintf(log, "building release %s\n", version)
	build := exec.CommandContext(ctx, "go", "run", ".", "-root", root, "-version", version, "-platforms", "linux/"+arch, "-out", files)
	build.Dir = filepath.Join(root, "tools", "release")
	build.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0") // an extracted commit has no history to ask
	build.Stderr = log
	if err := build.Run(); err != nil {
		return fmt.Errorf("building release %s: %w", version, err)
	}
	fmt.Fprintf(log, "publishing release %s\n", version)
	publish := exec.CommandContext(ctx, filepath.Join(r.dir, "publish"),
		"-release", files, "-registry", "ghcr.io/keyferry", "-version", version, "-key", filepath.Join(r.dir, "cosign.key"))
	publish.Dir = filepath.Join(Root(), "tools", "publish")
	publish.Env = r.env()
	publish.Stderr = log
	if err := publish.Run(); err != nil {
		return fmt.Errorf("publishing release %s: %w", version, err)
	}
	return nil
}

// Install installs a published release, or upgrades or rolls back to it, by the command of the
// pages, and waits until everything runs.
func (r *Registry) Install(ctx context.Context, log io.Writer, c *cluster.Cluster, version, values string) error {
	fmt.Fprintf(log, "installing release %s into the %s cluster\n", version, c.Name)
	file := filepath.Join(r.dir, "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		return err
	}
	return r.command(ctx, filepath.Join(Root(), "tools", "run"), "helm", "upgrade", "--install", Name,
		"oci://ghcr.io/keyferry/charts/keyferry", "--version", strings.TrimPrefix(version, "v"),
		"--kubeconfig", c.Kubeconfig, "--namespace", Namespace, "--create-namespace", "--values", file, "--wait", "--timeout", "5m")
}

// command runs a program that uses the registry as ghcr.io.
func (r *Registry) command(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = r.env()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(args[0]), args[1], err, out)
	}
	return nil
}

// env is the environment of programs that use the registry. Kubernetes' API servers are not behind
// its proxy.
func (r *Registry) env() []string {
	return append(append(os.Environ(), r.environment...), "NO_PROXY=127.0.0.1,localhost", "COSIGN_PASSWORD=")
}
