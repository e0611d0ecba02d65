// Command broker serves credentials of TargetClusters to Pods.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	certmanager "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2" //nolint:depguard // the Kubernetes libraries log through it
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/lean"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/logging"
	"github.com/keyferry/keyferry/internal/memory"
	"github.com/keyferry/keyferry/internal/metrics"
	"github.com/keyferry/keyferry/internal/monitoring"
	"github.com/keyferry/keyferry/internal/ownaddresses"
	"github.com/keyferry/keyferry/internal/policyflag"
	"github.com/keyferry/keyferry/internal/version"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/report"
	"github.com/keyferry/keyferry/issuer/verify"
)

const (
	// drainDelay is how long clients get to learn that this replica goes.
	drainDelay = 5 * time.Second
	// gracefulShutdown is longer than draining and the requests under way together.
	gracefulShutdown = 35 * time.Second
	// conditionInterval is the shortest time between two writes of a condition Issuing.
	conditionInterval = 5 * time.Second
)

type options struct {
	providerFile                 string
	listenAddress, certDir       string
	metrics                      monitoring.Metrics
	healthAddress                string
	logLevel                     int
	kubeAPIQPS                   float32
	kubeAPIBurst, maxConnections int
	maxCredentialLifetime        time.Duration
	policy                       endpoint.Policy
}

func main() {
	memory.Limit()
	if err := command().ExecuteContext(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, "broker:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:           "broker",
		Short:         "Issue credentials of TargetClusters to Pods over HTTPS",
		Args:          cobra.NoArgs,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.providerFile, "provider-file", "", "JSON file with the credential plugins (the ClusterProfile provider file), re-read when it changes; empty: no plugins")
	flags.StringVar(&o.listenAddress, "listen-address", ":8443", "address of the credential service")
	flags.StringVar(&o.certDir, "cert-dir", "/etc/keyferry/tls", "directory with tls.crt and tls.key, which are re-read when they change")
	o.metrics.AddFlags(flags)
	flags.StringVar(&o.healthAddress, "health-address", ":8081", "address of /healthz and /readyz; 0 turns them off")
	flags.IntVar(&o.logLevel, "log-level", 0, "log level: 0, or 1 to log more")
	// Each Pod that starts is a question or two, and waits for the answers. The API server's own
	// priorities keep questions from being too many.
	flags.Float32Var(&o.kubeAPIQPS, "kube-api-qps", 1000, "limit of requests per second to the API server of this cluster")
	flags.IntVar(&o.kubeAPIBurst, "kube-api-burst", 2000, "burst of requests to the API server of this cluster")
	flags.IntVar(&o.maxConnections, "max-connections", 4096, "limit of open connections; further connections wait")
	flags.DurationVar(&o.maxCredentialLifetime, "max-credential-lifetime", 0, "longest time until a Pod renews a credential, even if the credential expires later; 0: no limit")
	policyflag.Add(flags, &o.policy)
	cmd.SetVersionTemplate("{{.Version}}\n")
	return cmd
}

func run(ctx context.Context, o options) error {
	if o.logLevel != 0 && o.logLevel != 1 {
		return fmt.Errorf("--log-level is %d: it must be 0 or 1", o.logLevel)
	}
	log, audit := logging.New(os.Stderr, o.logLevel), logging.New(os.Stdout, o.logLevel).WithName("audit")
	certificate, err := certwatcher.New(filepath.Join(o.certDir, "tls.crt"), filepath.Join(o.certDir, "tls.key"))
	if err != nil {
		return fmt.Errorf("reading the serving certificate in %s: %w", o.certDir, err)
	}
	providers, err := clusterprofile.Open(o.providerFile)
	if err != nil {
		return err
	}
	// The libraries' loggers are the process's own: they are set once what was asked for is known to
	// make sense.
	ctrl.SetLogger(log)
	klog.SetLogger(log)

	lockWatch := locks.NewWatch(time.Now)
	mgr, err := newManager(o, lockWatch)
	if err != nil {
		return err
	}
	// Asked for now, the informers are filled before the server starts: no request meets an empty
	// cache.
	for _, object := range []client.Object{&v1alpha1.TargetCluster{}, &v1alpha1.Lock{}, &v1alpha1.ClusterLock{}} {
		if _, err := mgr.GetCache().GetInformer(ctx, object); err != nil {
			return fmt.Errorf("watching %T: %w", object, err)
		}
	}
	o.policy.Own = new(endpoint.Own)
	namespace := os.Getenv("POD_NAMESPACE")
	addresses := ownaddresses.New(mgr.GetAPIReader(), namespace, o.policy.Own)
	if err := addresses.Read(ctx); err != nil {
		return err
	}
	clusterID, err := issuer.ClusterID(ctx, mgr.GetAPIReader())
	if err != nil {
		return err
	}
	certManager, err := certmanager.NewForConfig(mgr.GetConfig())
	if err != nil {
		return fmt.Errorf("building the client for cert-manager: %w", err)
	}
	reporter, err := report.New(report.Config{
		Client: mgr.GetClient(), FieldManager: "keyferry-broker", Interval: conditionInterval, Metrics: ctrlmetrics.Registry, Log: log.WithName("issuing"),
	})
	if err != nil {
		return err
	}
	issue, err := issuer.New(issuer.Config{
		Clusters:    mgr.GetClient(),
		Secrets:     mgr.GetAPIReader(),
		CertManager: certManager,
		Providers:   providers.Current,
		ClusterID:   clusterID,
		MaxLife:     o.maxCredentialLifetime,
		Policy:      o.policy,
		Verify:      verify.New(o.policy),
		Observe:     reporter.Observe,
	})
	if err != nil {
		return err
	}
	authenticator, authorizer, err := broker.Delegate(mgr.GetConfig(), broker.DefaultReviewTTLs())
	if err != nil {
		return err
	}
	handler, err := broker.New(broker.Config{
		Authenticator: authenticator,
		Authorizer:    authorizer,
		FindLock:      lockWatch.Find(mgr.GetClient(), mgr.GetAPIReader()),
		Issuer:        issue,
		Audit:         audit,
		Log:           log.WithName("broker"),
		Metrics:       ctrlmetrics.Registry,
		Events:        mgr.GetEventRecorder("keyferry-broker"),
	})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listenAddress)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", o.listenAddress, err)
	}
	server, err := broker.NewServer(broker.ServerConfig{
		Listener:       listener,
		Handler:        handler,
		GetCertificate: certificate.GetCertificate,
		MaxConnections: o.maxConnections,
		DrainDelay:     drainDelay,
		Log:            log.WithName("server"),
	})
	if err != nil {
		return err
	}
	checks := monitoring.NewChecks()
	checks.Ready.Checks["serving"] = server.Ready
	o.metrics.Gatherer, o.metrics.GetCertificate = ctrlmetrics.Registry, certificate.GetCertificate
	if err := errors.Join(
		mgr.Add(certificate), mgr.Add(reporter), mgr.Add(manager.RunnableFunc(providers.Follow(log))), mgr.Add(manager.RunnableFunc(addresses.Follow(log.WithName("addresses")))), mgr.Add(server),
		checks.AddHealth(ctx, mgr, o.healthAddress), o.metrics.Add(ctx, mgr),
	); err != nil {
		return fmt.Errorf("putting the broker together: %w", err)
	}
	return mgr.Start(ctx)
}

// newManager returns a manager whose client reads TargetClusters and locks from lean caches and
// everything else from the API server.
func newManager(o options, lockWatch *locks.Watch) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), inventory.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("building the scheme: %w", err)
	}
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the API server of this cluster: %w", err)
	}
	cfg.QPS, cfg.Burst = o.kubeAPIQPS, o.kubeAPIBurst
	if err := metrics.OfProgram(ctrlmetrics.Registry, "broker", cfg); err != nil {
		return nil, err
	}
	graceful := gracefulShutdown
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme,
		Cache: cache.Options{
			DefaultWatchErrorHandler: lockWatch.WatchError,
			ByObject: map[client.Object]cache.ByObject{
				&v1alpha1.TargetCluster{}: {Transform: lean.Metadata}, &v1alpha1.Lock{}: {Transform: lean.Metadata}, &v1alpha1.ClusterLock{}: {Transform: lean.Metadata},
			},
		},
		Client:                  client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		Metrics:                 metricsserver.Options{BindAddress: "0"}, // package monitoring serves them
		GracefulShutdownTimeout: &graceful,
	})
	if err != nil {
		return nil, fmt.Errorf("building the manager: %w", err)
	}
	return mgr, nil
}
