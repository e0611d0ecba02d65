// Client is an ordinary program of a Kubernetes user: it takes rest.InClusterConfig, or a context of the kubeconfig that KUBECONFIG names,
// and talks to "its" API server, and knows nothing of where that is. It lists and watches namespaces without pause, counts what fails, and prints what it sees, a JSON line each
// second and at each change.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	once := flag.Bool("once", false, "make each request once; fail if one fails")
	kubecontext := flag.String("context", "", "context of the kubeconfig (default: in-cluster)")
	interval := flag.Duration("interval", 200*time.Millisecond, "time between two lists")
	duration := flag.Duration("for", 0, "end after this time, with success if nothing failed (default: go on)")
	flag.Parse()

	if err := run(ctx, *kubecontext, *once, *interval, *duration); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

func run(ctx context.Context, kubecontext string, once bool, interval, duration time.Duration) error {
	cfg, err := configOf(kubecontext)
	if err != nil {
		return err
	}
	cfg.QPS, cfg.Burst = 100, 100
	seen := &observer{report: report{Host: cfg.Host}}
	cfg.Wrap(seen.tokens)
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if once {
		seen.list(ctx, clients)
		seen.review(ctx, clients)
		return seen.result(out)
	}
	if duration > 0 {
		// Not a deadline: the last requests would fail because they know that they could not end in time.
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer time.AfterFunc(duration, cancel).Stop()
	}
	go seen.watch(ctx, clients)
	seen.loop(ctx, clients, interval, out)
	if duration > 0 {
		return seen.result(out)
	}
	return nil
}

func configOf(kubecontext string) (*rest.Config, error) {
	if kubecontext == "" {
		return rest.InClusterConfig()
	}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: kubecontext}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), overrides).ClientConfig()
}
