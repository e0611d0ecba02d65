// Clusters brings up the two kind clusters of tests and demo and leaves them up, or removes them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/keyferry/keyferry/e2e/cluster"
)

var errUsage = errors.New("usage: clusters up|down")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctrllog.SetLogger(logr.Discard()) // controller-runtime prints a stack trace if it has no logger
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	switch args[0] {
	case "up":
		return up(ctx)
	case "down":
		return cluster.Down(os.Stderr)
	default:
		return errUsage
	}
}

func up(ctx context.Context) error {
	pair, _, err := cluster.Up(ctx, os.Stderr)
	if err != nil {
		return err
	}
	for _, c := range []*cluster.Cluster{pair.Management, pair.Target} {
		fmt.Printf("kubectl --kubeconfig %s get nodes\n", c.Kubeconfig)
	}
	return nil
}
