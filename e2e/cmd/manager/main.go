// Manager is an ordinary controller of a Kubernetes user: a controller-runtime manager with leader
// election and a cache. Its Lease has the Pod's name. While it leads, it lists namespaces without
// pause, counts what fails, and prints what it sees, a JSON line each second. It ends when it loses
// its Lease.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr/funcr"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// report is a line of output.
type report struct {
	Time        time.Time `json:"time"`
	Client      string    `json:"client"`
	Requests    int       `json:"requests"`
	Failures    int       `json:"failures"`
	LastError   string    `json:"lastError"`
	User        string    `json:"user"`
	Host        string    `json:"host"`
	TokenSHA256 string    `json:"tokenSHA256"`
	Namespaces  []string  `json:"namespaces"`
	WatchEvents int       `json:"watchEvents"`
}

type program struct {
	live client.Client
	mu   sync.Mutex
	seen report
}

func main() {
	ctrl.SetLogger(funcr.New(func(prefix, args string) { fmt.Fprintln(os.Stderr, prefix, args) }, funcr.Options{}))
	if err := run(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	p := &program{seen: report{Client: madeWith(), Host: cfg.Host}}
	cfg.Wrap(p.tokens)
	cfg.QPS = -1
	if p.live, err = client.New(rest.CopyConfig(cfg), client.Options{}); err != nil {
		return err
	}
	lease, err := os.Hostname()
	if err != nil {
		return err
	}
	// Longer than the default, by which it is soon lost where many tests share a processor.
	leaseDuration, renewDeadline := time.Minute, 40*time.Second
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		LeaseDuration: &leaseDuration, RenewDeadline: &renewDeadline,
		LeaderElection: true, LeaderElectionID: lease, LeaderElectionReleaseOnCancel: true,
		Metrics: metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		return err
	}
	reconcile := func(context.Context, ctrl.Request) (ctrl.Result, error) {
		p.change(func(r *report) { r.WatchEvents++ })
		return ctrl.Result{}, nil
	}
	if err := ctrl.NewControllerManagedBy(mgr).For(&corev1.Namespace{}).Complete(reconcilerFunc(reconcile)); err != nil {
		return err
	}
	if err := mgr.Add(manager.RunnableFunc(p.loop)); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

type reconcilerFunc func(context.Context, ctrl.Request) (ctrl.Result, error)

func (f reconcilerFunc) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return f(ctx, req)
}

// loop runs while this process leads.
func (p *program) loop(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	out := json.NewEncoder(os.Stdout)
	for n := 0; ; n++ {
		var review authenticationv1.SelfSubjectReview
		if n%10 == 0 {
			p.count(ctx, "asking who I am", p.live.Create(ctx, &review), func(r *report) { r.User = review.Status.UserInfo.Username })
		}
		var list corev1.NamespaceList
		p.count(ctx, "listing namespaces", p.live.List(ctx, &list), func(r *report) {
			r.Namespaces = nil
			for i := range list.Items {
				r.Namespaces = append(r.Namespaces, list.Items[i].Name)
			}
		})
		p.change(func(r *report) { r.Time = time.Now(); _ = out.Encode(r) })
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (p *program) count(ctx context.Context, doing string, err error, success func(*report)) {
	p.change(func(r *report) {
		switch {
		case err == nil:
			r.Requests++
			success(r)
		case ctx.Err() == nil:
			r.Requests++
			r.Failures++
			r.LastError = fmt.Sprintf("%s: %v", doing, err)
		}
	})
}

func (p *program) change(f func(*report)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.seen)
}

// tokens notes with which token each request went out.
func (p *program) tokens(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		hash := sha256.Sum256([]byte(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")))
		p.change(func(seen *report) { seen.TokenSHA256 = hex.EncodeToString(hash[:6]) })
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// madeWith is controller-runtime in the version that this program was built with.
func madeWith() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "sigs.k8s.io/controller-runtime" {
			return "controller-runtime " + module.Version + ", leader election"
		}
	}
	return ""
}
