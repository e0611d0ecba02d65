package cluster

import (
	"bytes"
	"context"
	_ "embed" // the clusters' descriptions
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/kind/pkg/cluster"
)

// The environment variables by which a user brings clusters of their own, each the path of a
// kubeconfig. The third one, whose server must answer to Pods of the management cluster, may be
// left out if that is true of the second one.
const (
	ManagementEnv     = "KEYFERRY_E2E_MANAGEMENT_KUBECONFIG"
	TargetEnv         = "KEYFERRY_E2E_TARGET_KUBECONFIG"
	TargetInternalEnv = "KEYFERRY_E2E_TARGET_INTERNAL_KUBECONFIG"
)

// TargetVersionEnv is the environment variable for the Kubernetes version of the target cluster.
// Without it both clusters have the version of KUBERNETES_VERSION.
const TargetVersionEnv = "KEYFERRY_E2E_TARGET_KUBERNETES_VERSION"

//go:embed management.yaml
var managementConfig []byte

//go:embed target.yaml
var targetConfig []byte

//go:embed audit.yaml
var auditPolicy []byte

// Up returns two clusters that answer, and whether it created them. In this order: those that the
// environment names; those that `make clusters` left up; new ones. It removes what an interrupted
// run left behind, and on failure or when ctx ends, what it began itself. Progress goes to log.
func Up(ctx context.Context, log io.Writer) (*Pair, bool, error) {
	given, err := given()
	if given != nil || err != nil {
		return given, false, err
	}
	if pair := running(ctx); pair != nil {
		fmt.Fprintln(log, "using the clusters that are up (make clusters-down removes them)")
		return pair, false, nil
	}
	if err := script(ctx, log, nil, "docker.sh"); err != nil {
		return nil, false, err
	}
	if err := Down(log); err != nil {
		return nil, false, err
	}
	var images [2]string // of management and target
	if images[0], err = nodeImage(ctx, log); err != nil {
		return nil, false, err
	}
	images[1] = images[0]
	if version := os.Getenv(TargetVersionEnv); version != "" {
		if images[1], err = nodeImage(ctx, log, "KUBERNETES_VERSION="+version); err != nil {
			return nil, false, err
		}
	}
	pair, err := create(ctx, log, images)
	if err != nil {
		return nil, false, errors.Join(err, Down(log))
	}
	return pair, true, nil
}

// Down removes the clusters that Up creates, whole or not, and their kubeconfigs. It touches no
// others.
func Down(log io.Writer) error {
	errs := []error{os.RemoveAll(upMarker())}
	provider := cluster.NewProvider()
	for _, c := range own() {
		nodes, err := provider.ListNodes(c.Kind)
		if err == nil && len(nodes) > 0 {
			fmt.Fprintf(log, "removing cluster %s\n", c.Kind)
			err = provider.Delete(c.Kind, c.Kubeconfig)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("removing cluster %s: %w", c.Kind, err))
		}
		errs = append(errs, os.RemoveAll(c.Kubeconfig), os.RemoveAll(c.InternalKubeconfig))
	}
	return errors.Join(errs...)
}

// given returns the clusters that the environment names, nil if it names none.
func given() (*Pair, error) {
	management, target, internal := os.Getenv(ManagementEnv), os.Getenv(TargetEnv), os.Getenv(TargetInternalEnv)
	if management == "" && target == "" {
		return nil, nil
	}
	if management == "" || target == "" {
		return nil, fmt.Errorf("%s and %s belong together: set both, or none to have clusters created", ManagementEnv, TargetEnv)
	}
	if internal == "" {
		internal = target
	}
	m, err := adopt("management", management, management)
	if err != nil {
		return nil, err
	}
	t, err := adopt("target", target, internal)
	if err != nil {
		return nil, err
	}
	return &Pair{Management: m, Target: t}, nil
}

// running returns the clusters of an Up that came to its end, if both answer.
func running(ctx context.Context) *Pair {
	if _, err := os.Stat(upMarker()); err != nil {
		return nil
	}
	clusters := own()
	for _, c := range clusters {
		if !c.answers(ctx) {
			return nil
		}
	}
	return &Pair{Management: clusters[0], Target: clusters[1], Federated: true}
}

func (c *Cluster) answers(ctx context.Context) bool {
	cfg, err := c.Config()
	if err != nil {
		return false
	}
	cfg.Timeout = 5 * time.Second
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return false
	}
	return clients.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() == nil
}

// create makes both clusters at once: each of them mostly waits.
func create(ctx context.Context, log io.Writer, images [2]string) (*Pair, error) {
	clusters := own()
	if err := writeFiles(); err != nil {
		return nil, err
	}
	group, creating := errgroup.WithContext(ctx)
	for i, description := range [][]byte{managementConfig, targetConfig} {
		description = bytes.ReplaceAll(description, []byte("${FILES}"), []byte(filesDir()))
		group.Go(func() error { return clusters[i].create(creating, log, description, images[i]) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	pair := &Pair{Management: clusters[0], Target: clusters[1], Federated: true}
	if err := pair.federate(ctx); err != nil {
		return nil, err
	}
	if err := os.WriteFile(upMarker(), []byte(strings.Join(images[:], "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	return pair, nil
}

// writeFiles writes what API servers read.
func writeFiles() error {
	if err := os.MkdirAll(filesDir(), 0o750); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(filesDir(), "audit.yaml"), auditPolicy, 0o600); err != nil {
		return err
	}
	return writeAuthentication("")
}

// filesDir is mounted into the nodes.
func filesDir() string { return filepath.Join(Dir(), "files") }

// create makes one cluster. When ctx ends it returns at once; the caller removes what was begun.
func (c *Cluster) create(ctx context.Context, log io.Writer, description []byte, image string) error {
	if err := os.MkdirAll(filepath.Dir(c.Kubeconfig), 0o750); err != nil {
		return err
	}
	provider := cluster.NewProvider(cluster.ProviderWithLogger(newProgress(log, c.Name)))
	done := make(chan error, 1)
	go func() {
		done <- provider.Create(c.Kind,
			cluster.CreateWithRawConfig(description),
			cluster.CreateWithNodeImage(image),
			cluster.CreateWithKubeconfigPath(c.Kubeconfig),
			cluster.CreateWithWaitForReady(3*time.Minute),
			cluster.CreateWithRetain(true),
		)
	}()
	select {
	case err := <-done:
		if err != nil {
			logs := filepath.Join(Dir(), "logs", c.Name)
			return fmt.Errorf("creating cluster %s: %w (logs: %s)", c.Kind, errors.Join(err, provider.CollectLogs(c.Kind, logs)), logs)
		}
	case <-ctx.Done():
		// kind knows no context: without its node it fails soon.
		err := provider.Delete(c.Kind, c.Kubeconfig)
		<-done //nolint:errcheck // it has lost its node
		return errors.Join(fmt.Errorf("creating cluster %s: %w", c.Kind, context.Cause(ctx)), err)
	}
	internal, err := provider.KubeConfig(c.Kind, true)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig of %s: %w", c.Kind, err)
	}
	return os.WriteFile(c.InternalKubeconfig, []byte(internal), 0o600)
}

// own describes the clusters that Up creates: management, target.
func own() []*Cluster {
	clusters := make([]*Cluster, 0, 2)
	for _, name := range []string{"management", "target"} {
		clusters = append(clusters, &Cluster{
			Name:               name,
			Kind:               "keyferry-" + name,
			Kubeconfig:         filepath.Join(Dir(), name+".kubeconfig"),
			InternalKubeconfig: filepath.Join(Dir(), name+".internal.kubeconfig"),
		})
	}
	return clusters
}

// Dir is the folder for what a run leaves: kubeconfigs and logs.
func Dir() string { return filepath.Join(moduleDir(), ".run") }

// upMarker is the file that says that the clusters came up whole.
func upMarker() string { return filepath.Join(Dir(), "up") }

// moduleDir is the directory of the e2e module, which programs and tests of the module are run in,
// or below.
func moduleDir() string {
	dir, err := os.Getwd()
	for err == nil && filepath.Base(dir) != "e2e" && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}

// Root is the repository's root.
func Root() string { return filepath.Dir(moduleDir()) }

// nodeImage returns the name of a node image that the Docker engine has. env is added to the
// environment of the script.
func nodeImage(ctx context.Context, log io.Writer, env ...string) (string, error) {
	var image bytes.Buffer
	if err := script(ctx, log, &image, "node-image.sh", env...); err != nil {
		return "", err
	}
	return strings.TrimSpace(image.String()), nil
}

// script runs one of the scripts that prepare this machine. Its progress goes to log.
func script(ctx context.Context, log, out io.Writer, name string, env ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(moduleDir(), "kind", name))
	cmd.Env = append(cmd.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, log
	// The compilers that a script runs have to stop, too; the script then removes what is half made.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running e2e/kind/%s: %w", name, err)
	}
	return nil
}
