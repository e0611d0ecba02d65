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
	"runtime/debug"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// options are the flags.
type options struct {
	context           string
	once              bool
	interval, timeout time.Duration
	duration          time.Duration
	watches           int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.BoolVar(&o.once, "once", false, "make each request once; fail if one fails")
	flag.StringVar(&o.context, "context", "", "context of the kubeconfig (default: in-cluster)")
	flag.DurationVar(&o.interval, "interval", 200*time.Millisecond, "time between two lists")
	flag.DurationVar(&o.timeout, "timeout", 5*time.Second, "time limit of a request")
	flag.DurationVar(&o.duration, "for", 0, "end after this time, with success if nothing failed (default: go on)")
	flag.IntVar(&o.watches, "watches", 1, "number of watches")
	flag.Parse()

	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

func run(ctx context.Context, o options) error {
	cfg, err := configOf(o.context)
	if err != nil {
		return err
	}
	cfg.QPS = -1 // no limit but the server's
	seen := &observer{timeout: o.timeout, report: report{Client: madeWith(), Host: cfg.Host}, heard: make([]time.Time, o.watches)}
	cfg.Wrap(seen.tokens)
	if seen.clients, err = kubernetes.NewForConfig(cfg); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if o.once {
		seen.list(ctx)
		seen.review(ctx)
		return seen.result(out)
	}
	if o.duration > 0 {
		// Not a deadline: the last requests would fail because they know that they could not end in time.
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer time.AfterFunc(o.duration, cancel).Stop()
	}
	for i := range o.watches {
		go seen.watch(ctx, i)
	}
	seen.loop(ctx, o.interval, out)
	if o.duration > 0 {
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

// madeWith is client-go in the version that this program was built with.
func madeWith() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "k8s.io/client-go" {
			return "client-go " + module.Version
		}
	}
	return ""
}
