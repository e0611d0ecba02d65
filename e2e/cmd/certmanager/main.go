// Certmanager runs controllers of cert-manager, the real ones, as one program: Issuers and
// ClusterIssuers with a CA or that sign themselves, Certificates, CertificateRequests with their
// approver, and the injector of CA bundles. cert-manager has no programs that Go can install, and
// its images cannot be pulled everywhere. What is missing is its webhook, and so the check of who
// may approve.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cert-manager/cert-manager/pkg/controller"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver" // registers itself, as all below do
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	_ "github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	_ "github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2" //nolint:depguard // cert-manager logs through it
	ctrl "sigs.k8s.io/controller-runtime"
)

const workers = 5

type options struct {
	kubeconfig, namespace, clusterNamespace, controllers string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flags := flag.NewFlagSet("certmanager", flag.ExitOnError) // libraries have put theirs into flag.CommandLine
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; default: that of a Pod")
	flags.StringVar(&o.namespace, "namespace", "", "work in this namespace only")
	flags.StringVar(&o.clusterNamespace, "cluster-resource-namespace", "cert-manager", "where the Secrets of ClusterIssuers are")
	flags.StringVar(&o.controllers, "controllers", "*", "comma-separated names, * for all, -NAME for all but this")
	_ = flags.Parse(os.Args[1:]) // ends the process if it fails

	log := logr.FromSlogHandler(slog.NewJSONHandler(os.Stderr, nil))
	klog.SetLogger(log)
	ctrl.SetLogger(log)
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "certmanager:", err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

func run(ctx context.Context, o options) error {
	g, ctx := errgroup.WithContext(ctx)
	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		Kubeconfig:         o.kubeconfig,
		KubernetesAPIQPS:   200,
		KubernetesAPIBurst: 400,
		Namespace:          o.namespace,
		IssuerOptions:      controller.IssuerOptions{ClusterResourceNamespace: o.clusterNamespace},
		CertificateOptions: controller.CertificateOptions{
			CertificateRequestMinimumBackoffDuration: time.Second,
			CertificateRequestMaximumBackoffDuration: time.Minute,
		},
	})
	if err != nil {
		return err
	}
	for name, construct := range controller.Known() {
		if !o.runs(name) {
			continue
		}
		c, err := construct(factory)
		if err != nil {
			return fmt.Errorf("building %s: %w", name, err)
		}
		g.Go(func() error { return ended(ctx, name, c.Run(workers, ctx)) })
	}
	if o.runs("cainjector") {
		g.Go(func() error { return ended(ctx, "cainjector", injectAuthorities(ctx, o.kubeconfig)) })
	}
	shared, err := factory.Build()
	if err != nil {
		return err
	}
	shared.SharedInformerFactory.Start(ctx.Done())
	shared.KubeSharedInformerFactory.Start(ctx.Done())
	return g.Wait()
}

func (o options) runs(name string) bool {
	names := strings.Split(o.controllers, ",")
	return !slices.Contains(names, "-"+name) && (slices.Contains(names, name) || slices.Contains(names, "*"))
}

// ended is the error of a controller that ends before it should.
func ended(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s ended: %w", name, errors.Join(err, errors.New("nobody told it to")))
}
