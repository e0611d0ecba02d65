// Command webhook admits Pods that ask for another cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2" //nolint:depguard // the Kubernetes libraries log through it
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/manager/signals"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/lean"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/logging"
	"github.com/keyferry/keyferry/internal/memory"
	"github.com/keyferry/keyferry/internal/metrics"
	"github.com/keyferry/keyferry/internal/monitoring"
	"github.com/keyferry/keyferry/internal/ownaddresses"
	"github.com/keyferry/keyferry/internal/serving"
	"github.com/keyferry/keyferry/internal/version"
	"github.com/keyferry/keyferry/webhook"
)

func main() {
	memory.Limit()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(webhook.GCPercent)
	}
	if err := command().ExecuteContext(signals.SetupSignalHandler()); err != nil {
		os.Exit(1)
	}
}

// flags are those of the command line.
type flags struct {
	namespace     string
	certDir       string
	clientCA      string
	clientNames   []string
	port          int
	metrics       monitoring.Metrics
	healthAddress string
	logLevel      int
	shutdownDelay time.Duration
	injection     webhook.InjectionFlags
}

func command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:          "webhook",
		Short:        "Inject Pods that use another cluster",
		Long:         "Inject annotated Pods, and check the annotations of workloads",
		Version:      version.String(),
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE:         func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
	}
	set := cmd.Flags()
	set.StringVar(&f.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace of this program; default $POD_NAMESPACE")
	set.StringVar(&f.certDir, "cert-dir", "/etc/keyferry/tls", "directory with tls.crt and tls.key, which are re-read when they change")
	set.StringVar(&f.clientCA, "client-ca-file", "", "PEM file with CA certificates, re-read when it changes; if set, each client needs a certificate of one of these CAs")
	set.StringSliceVar(&f.clientNames, "client-names", nil, "accepted common names of client certificates; empty: all names")
	set.IntVar(&f.port, "port", 9443, "port of the admission webhooks")
	f.metrics.AddFlags(set)
	set.StringVar(&f.healthAddress, "health-address", ":8081", "address of /healthz and /readyz")
	set.IntVar(&f.logLevel, "log-level", 0, "log level: 0, or 1 to log each allowed request")
	f.injection.AddTo(set)
	set.DurationVar(&f.shutdownDelay, "shutdown-delay-duration", 5*time.Second, "time to serve requests after SIGTERM, so that API servers can connect to another replica")
	for _, required := range []string{"refresher-image", "broker-url"} {
		if err := cmd.MarkFlagRequired(required); err != nil {
			panic(err) // no such flag: a defect that any start shows
		}
	}
	cmd.SetVersionTemplate("{{.Version}}\n")
	return cmd
}

// run serves until ctx ends.
func run(ctx context.Context, f flags) error {
	broker, injection, err := f.check()
	if err != nil {
		return err
	}
	providers, err := clusterprofile.Open(f.injection.ProviderFile)
	if err != nil {
		return err
	}
	log := logging.New(os.Stderr, f.logLevel)
	ctrllog.SetLogger(log)
	klog.SetLogger(log.WithName("klog"))
	kubeconfig, err := config.GetConfig()
	if err != nil {
		return err
	}
	// Each Pod is a question or two. Any limit here is one on the Pods that the whole cluster can
	// create; the API server's own priorities keep questions from being too many.
	kubeconfig.QPS, kubeconfig.Burst = 1000, 2000

	if err := errors.Join(
		metrics.OfProgram(ctrlmetrics.Registry, "webhook", kubeconfig),
		// Where there are controllers, their library registers these.
		metrics.Register(ctrlmetrics.Registry, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
	); err != nil {
		return err
	}

	certificate, err := certwatcher.New(filepath.Join(f.certDir, "tls.crt"), filepath.Join(f.certDir, "tls.key"))
	if err != nil {
		return fmt.Errorf("reading the serving certificate in %s: %w", f.certDir, err)
	}
	lockWatch := locks.NewWatch(time.Now)
	mgr, err := newManager(kubeconfig, lockWatch, log)
	if err != nil {
		return err
	}
	checks := monitoring.NewChecks()
	envFromFile, err := ability(mgr, checks, log, f.namespace, webhook.EnvFromFile(), f.injection.EnvFromFile)
	if err != nil {
		return err
	}
	imageVolume, err := ability(mgr, checks, log, f.namespace, webhook.ImageVolume(), f.injection.ImageVolumeFeature())
	if err != nil {
		return err
	}
	if err := mgr.Add(manager.RunnableFunc(providers.Follow(log))); err != nil {
		return err
	}
	reviews, err := authorizationclient.NewForConfig(kubeconfig)
	if err != nil {
		return err
	}
	mayUse, err := webhook.NewMayUse(reviews)
	if err != nil {
		return err
	}
	f.injection.Policy.Own = new(endpoint.Own)
	addresses := ownaddresses.New(mgr.GetAPIReader(), f.namespace, f.injection.Policy.Own)
	if err := mgr.Add(manager.RunnableFunc(addresses.Follow(log.WithName("addresses")))); err != nil {
		return err
	}
	address := &webhook.Address{Host: broker.Hostname(), Lookup: net.DefaultResolver.LookupNetIP}
	handler, err := webhook.New(webhook.Config{
		Injection:     injection,
		Cached:        mgr.GetClient(),
		Live:          mgr.GetAPIReader(),
		MayUse:        mayUse,
		FindLock:      lockWatch.Find(mgr.GetClient(), mgr.GetAPIReader()),
		Providers:     providers.Current,
		Policy:        f.injection.Policy,
		EnvFromFile:   envFromFile,
		ImageVolume:   imageVolume,
		BrokerAddress: address.Get,
		Metrics:       ctrlmetrics.Registry,
		Log:           log,
	})
	if err != nil {
		return err
	}
	drain, drained := webhook.NewDrain(ctx, f.shutdownDelay)
	server, err := f.server(ctx, drain.Handler(handler), certificate, log)
	if err != nil {
		return err
	}
	f.metrics.Gatherer, f.metrics.GetCertificate = ctrlmetrics.Registry, certificate.GetCertificate
	if err := errors.Join(
		mgr.Add(certificate), mgr.Add(server), addChecks(ctx, mgr, checks, server),
		checks.AddHealth(ctx, mgr, f.healthAddress), f.metrics.Add(ctx, mgr),
	); err != nil {
		return err
	}
	log.Info("starting", "version", version.String())
	return mgr.Start(drained)
}

// server returns the server of admission requests, which listens.
func (f flags) server(ctx context.Context, handler http.Handler, certificate *certwatcher.CertWatcher, log logr.Logger) (*serving.Server, error) {
	address := net.JoinHostPort("", strconv.Itoa(f.port))
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	return webhook.NewServer(webhook.ServerConfig{
		Listener:       listener,
		Handler:        handler,
		GetCertificate: certificate.GetCertificate,
		ClientCA:       f.clientCA,
		ClientNames:    f.clientNames,
		Log:            log.WithName("server"),
	})
}

// newManager returns a manager that caches locks, and of TargetClusters and webhook configurations
// what is read of them.
func newManager(kubeconfig *rest.Config, lockWatch *locks.Watch, log logr.Logger) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), inventory.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	return manager.New(kubeconfig, manager.Options{
		Scheme:  scheme,
		Logger:  log,
		Metrics: metricsserver.Options{BindAddress: "0"}, // package monitoring serves them
		Cache: cache.Options{
			DefaultWatchErrorHandler: lockWatch.WatchError,
			ByObject: map[client.Object]cache.ByObject{
				&v1alpha1.TargetCluster{}: {Transform: webhook.Strip}, &v1alpha1.Lock{}: {Transform: lean.Metadata}, &v1alpha1.ClusterLock{}: {Transform: lean.Metadata},
				&admissionregistrationv1.MutatingWebhookConfiguration{}: {Transform: webhook.StripConfiguration},
			},
		},
	})
}

// addChecks makes the webhook ready when it listens and its caches are filled.
func addChecks(ctx context.Context, mgr manager.Manager, checks monitoring.Checks, server *serving.Server) error {
	var informers []cache.Informer
	for _, object := range []client.Object{
		&v1alpha1.TargetCluster{}, &v1alpha1.Lock{}, &v1alpha1.ClusterLock{}, &admissionregistrationv1.MutatingWebhookConfiguration{},
	} {
		informer, err := mgr.GetCache().GetInformer(ctx, object)
		if err != nil {
			return fmt.Errorf("watching %T: %w", object, err)
		}
		informers = append(informers, informer)
	}
	checks.Ready.Checks["listening"] = server.Ready
	checks.Ready.Checks["cache"] = func(*http.Request) error {
		if slices.ContainsFunc(informers, func(i cache.Informer) bool { return !i.HasSynced() }) {
			return errors.New("the caches of TargetClusters, locks and webhook configurations are not filled yet")
		}
		return nil
	}
	return nil
}

// ability is what a flag says of a feature; for auto that is what a probe finds out, which
// readiness waits for.
func ability(mgr manager.Manager, checks monitoring.Checks, log logr.Logger, namespace string, feature webhook.Feature, said string) (func() bool, error) {
	if said != webhook.Auto {
		return func() bool { return said == "true" }, nil
	}
	live, err := client.New(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), HTTPClient: mgr.GetHTTPClient()})
	if err != nil {
		return nil, err
	}
	probe := &webhook.Probe{Feature: feature, Client: live, Namespace: namespace, Log: log}
	checks.Ready.Checks[feature.Name] = probe.Ready
	return probe.Able, errors.Join(
		mgr.Add(probe),
		ctrlmetrics.Registry.Register(probe.Collector()),
	)
}

// check returns the broker's URL and what is injected, or what is wrong with the flags.
func (f flags) check() (broker *url.URL, injection injector.Config, err error) {
	fail := func(flag string, value any, want string) (*url.URL, injector.Config, error) {
		return nil, injector.Config{}, fmt.Errorf("--%s=%v: want %s", flag, value, want)
	}
	if f.logLevel != 0 && f.logLevel != 1 {
		return fail("log-level", f.logLevel, "0 or 1")
	}
	for flag, value := range map[string]string{webhook.EnvFromFile().Name: f.injection.EnvFromFile, webhook.ImageVolume().Name: f.injection.ImageVolume} {
		if value == webhook.Auto && f.namespace == "" {
			return fail("namespace", "", "one's own, where --"+flag+"=auto makes its dry run")
		}
	}
	injection, broker, err = f.injection.Config()
	return broker, injection, err
}
