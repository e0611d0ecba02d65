// Demo shows what Keyferry does: it brings up two clusters, installs Keyferry in one, and runs a
// program there that works on the other.
package main

import (
	"context"
	_ "embed" // manifests
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/keyferry/keyferry/e2e/cluster"
	"github.com/keyferry/keyferry/e2e/release"
)

//go:embed target.yaml
var targetManifests []byte

//go:embed program.yaml
var programManifests []byte

// namespaces of the management cluster: of TargetClusters, and of the program.
var namespaces = []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: fleet}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: app}\n")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctrllog.SetLogger(logr.Discard())
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "up":
		return up(ctx)
	case len(args) == 1 && args[0] == "down":
		return cluster.Down(os.Stderr)
	default:
		return errors.New("usage: demo up|down")
	}
}

func up(ctx context.Context) error {
	pair, _, err := cluster.Up(ctx, os.Stderr)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func(context.Context, *cluster.Pair) error
	}{
		{"installing Keyferry in the management cluster, with credentials of 30 s", install},
		{"giving Keyferry a ServiceAccount in the target: config/samples/target-rbac.yaml", prepareTarget},
		{"describing the target to Keyferry: config/samples/targetcluster-fixed.yaml, use.yaml", describeTarget},
		{"starting an ordinary program in the management cluster: e2e/cmd/demo/program.yaml", startProgram},
		{"reading what it prints", watchProgram},
	} {
		fmt.Printf("\n==> %s\n", step.what)
		start := time.Now()
		if err := step.do(ctx, pair); err != nil {
			return fmt.Errorf("%s: %w\nThe clusters are left as they are; make demo-down removes them", step.what, err)
		}
		if took := time.Since(start); took > 2*time.Second {
			fmt.Printf("    took %.0f s\n", took.Seconds())
		}
	}
	fmt.Printf(`
The program asked for its in-cluster configuration, and works on the target as robots/robot. To look around:

    export KUBECONFIG=%s
    kubectl get targetclusters -A
    kubectl describe pod -n app
    kubectl logs -n app deploy/web -c web -f

make demo-down removes everything.
`, pair.Management.Kubeconfig)
	return nil
}

func install(ctx context.Context, pair *cluster.Pair) error {
	images, err := release.Build(ctx, os.Stderr, "keyferry", "refresher", "e2e-client")
	if err != nil {
		return err
	}
	if err := release.Load(ctx, os.Stderr, pair.Management, images); err != nil {
		return err
	}
	if err := pair.Management.Apply(ctx, namespaces); err != nil {
		return err
	}
	return release.Install(ctx, os.Stderr, pair.Management, images, "maxCredentialLifetime: 30s\nsecretAccess: {namespaces: [fleet]}\n")
}

func prepareTarget(ctx context.Context, pair *cluster.Pair) error {
	if err := applySample(ctx, pair.Target, "target-rbac.yaml"); err != nil {
		return err
	}
	return pair.Target.Apply(ctx, targetManifests)
}

func applySample(ctx context.Context, c *cluster.Cluster, name string) error {
	manifests, err := os.ReadFile(filepath.Join(release.Root(), "config", "samples", name))
	if err != nil {
		return err
	}
	return c.Apply(ctx, manifests)
}
