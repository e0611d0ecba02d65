// Command controller keeps the status of TargetClusters, the Secrets of CredentialRequests, the
// serving certificates and whom to trust.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	certmanager "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	"github.com/spf13/cobra"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
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
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/controller"
	"github.com/keyferry/keyferry/controller/certificates"
	"github.com/keyferry/keyferry/controller/federation"
	"github.com/keyferry/keyferry/controller/secretaccess"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
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

// The Secrets of the builtin certificates, and the name under which events and the Lease are.
const (
	name            = "keyferry-controller"
	authoritySecret = "keyferry-ca"
	webhookSecret   = "keyferry-webhook-tls"
	brokerSecret    = "keyferry-broker-tls"

	// conditionInterval is the shortest time between two writes of a condition Issuing.
	conditionInterval = 5 * time.Second
)

type options struct {
	providerFile                  string
	namespace                     string
	certificates, trustBundleFile string
	certDir                       string
	webhookService, brokerService string
	brokerServiceAccount          string
	webhookConfiguration          string
	maxConcurrentProbes           int
	targetTimeout                 time.Duration
	policy                        endpoint.Policy
	credentials                   credentialOptions
	secretAccess                  secretAccessOptions
	leaderElect                   bool
	metrics                       monitoring.Metrics
	healthAddress                 string
	logLevel                      int
}

func main() {
	memory.Limit()
	if err := command().ExecuteContext(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, "controller:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:           "controller",
		Short:         "Update the status of TargetClusters, and renew the Secrets of CredentialRequests and Keyferry's certificates",
		Args:          cobra.NoArgs,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.providerFile, "provider-file", "", "JSON file with the credential plugins (the ClusterProfile provider file), re-read when it changes; empty: no plugins")
	flags.StringVar(&o.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace of this program; default $POD_NAMESPACE")
	flags.StringVar(&o.certificates, "certificates", "builtin", "source of the certificates of the webhook and the broker: builtin, cert-manager or provided")
	flags.StringVar(&o.certDir, "cert-dir", "", "with --certificates=cert-manager or provided: directory with tls.crt and tls.key for /metrics, which are re-read when they change")
	flags.StringVar(&o.trustBundleFile, "trust-bundle-file", "", "with --certificates=cert-manager or provided: PEM file with the CA certificates of the webhook and the broker, re-read every minute")
	flags.StringVar(&o.webhookService, "webhook-service", "keyferry-webhook", "Service of the webhook")
	flags.StringVar(&o.brokerService, "broker-service", "keyferry-broker", "Service of the broker")
	flags.StringVar(&o.brokerServiceAccount, "broker-service-account", "keyferry-broker", "ServiceAccount of the broker: the controller uses a Secret for a TargetCluster only if the broker may read Secrets in the TargetCluster's namespace")
	flags.StringVar(&o.webhookConfiguration, "webhook-configuration", "keyferry-webhook", "name of the mutating and validating webhook configurations whose caBundle the controller updates; with --certificates=cert-manager, cert-manager updates the caBundle")
	flags.IntVar(&o.maxConcurrentProbes, "max-concurrent-probes", 16, "limit of targets that are probed at the same time")
	flags.DurationVar(&o.targetTimeout, "target-timeout", 10*time.Second, "timeout of the probe of one target")
	policyflag.Add(flags, &o.policy)
	o.credentials.addFlags(flags)
	o.secretAccess.addFlags(flags)
	flags.BoolVar(&o.leaderElect, "leader-elect", true, "reconcile objects only while this replica holds the Lease "+name)
	o.metrics.AddFlags(flags)
	flags.StringVar(&o.healthAddress, "health-address", ":8081", "address of /healthz and /readyz; 0 turns them off")
	flags.IntVar(&o.logLevel, "log-level", 0, "log level: 0, or 1 to log more")
	cmd.SetVersionTemplate("{{.Version}}\n")
	return cmd
}

func (o options) check() error {
	switch {
	case o.namespace == "":
		return errors.New("--namespace is required if $POD_NAMESPACE is not set")
	case o.certificates != "builtin" && o.certificates != "cert-manager" && o.certificates != "provided":
		return fmt.Errorf("--certificates is %q: it must be builtin, cert-manager or provided", o.certificates)
	case (o.certificates == "builtin") == (o.trustBundleFile != ""):
		return errors.New("--trust-bundle-file is required with --certificates=cert-manager or provided, and not allowed otherwise")
	case o.certificates == "builtin" && o.certDir != "":
		return errors.New("--cert-dir has no effect with --certificates=builtin: remove one of the two flags")
	case o.certificates != "builtin" && o.certDir == "" && o.metrics.Secure:
		return fmt.Errorf("--cert-dir is required with --certificates=%s and --metrics-secure", o.certificates)
	case o.logLevel != 0 && o.logLevel != 1:
		return fmt.Errorf("--log-level is %d: it must be 0 or 1", o.logLevel)
	default:
		return errors.Join(o.credentials.check(), o.secretAccess.check())
	}
}

func run(ctx context.Context, o options) error {
	log := logging.New(os.Stderr, o.logLevel)
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	lockWatch := locks.NewWatch(time.Now)
	mgr, err := newManager(o, lockWatch)
	if err != nil {
		return err
	}
	o.policy.Own = new(endpoint.Own)
	addresses := ownaddresses.New(mgr.GetAPIReader(), o.namespace, o.policy.Own)
	if err := addresses.Read(ctx); err != nil {
		return err
	}
	credentialIssuer, err := newIssuer(ctx, mgr, o)
	if err != nil {
		return err
	}
	builtin, err := newBuiltin(mgr, o)
	if err != nil {
		return err
	}
	if err := errors.Join(
		mgr.Add(manager.RunnableFunc(addresses.Follow(log.WithName("addresses")))), addTargetClusters(mgr, o, credentialIssuer), addSecretAccess(mgr, o), addCertificates(mgr, o, builtin),
		addCredentialRequests(mgr, o, credentialIssuer, lockWatch.Find(mgr.GetClient(), mgr.GetAPIReader()), logging.New(os.Stdout, o.logLevel).WithName("audit")),
		monitoring.NewChecks().AddHealth(ctx, mgr, o.healthAddress), addMetrics(ctx, mgr, o, builtin),
	); err != nil {
		return fmt.Errorf("putting the controller together: %w", err)
	}
	log.Info("starting", "version", version.String())
	return mgr.Start(ctx)
}

// newIssuer builds the Issuer for TargetClusters and CredentialRequests. It reports results to the
// same condition and metrics as the broker's.
func newIssuer(ctx context.Context, mgr ctrl.Manager, o options) (*issuer.Issuer, error) {
	providers, err := clusterprofile.Open(o.providerFile)
	if err != nil {
		return nil, err
	}
	if err := mgr.Add(manager.RunnableFunc(providers.Follow(ctrl.Log.WithName("providers")))); err != nil {
		return nil, err
	}
	clusterID, err := issuer.ClusterID(ctx, mgr.GetAPIReader())
	if err != nil {
		return nil, err
	}
	certManager, err := certmanager.NewForConfig(mgr.GetConfig())
	if err != nil {
		return nil, fmt.Errorf("building the client for cert-manager: %w", err)
	}
	reporter, err := report.New(report.Config{
		Client: mgr.GetClient(), FieldManager: controller.IssuingFieldManager, Interval: conditionInterval, Metrics: ctrlmetrics.Registry, Log: ctrl.Log.WithName("issuing"),
	})
	if err != nil {
		return nil, err
	}
	if err := mgr.Add(reporter); err != nil {
		return nil, err
	}
	reviews, err := authorizationclient.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, err
	}
	secrets, err := secretaccess.NewReader(mgr.GetAPIReader(), reviews, types.NamespacedName{Namespace: o.namespace, Name: o.brokerServiceAccount})
	if err != nil {
		return nil, err
	}
	return issuer.New(issuer.Config{
		Clusters:       mgr.GetClient(),
		Secrets:        secrets,
		CertManager:    certManager,
		Providers:      providers.Current,
		ClusterID:      clusterID,
		Policy:         o.policy,
		LocalAudiences: issuer.LocalAudiences(mgr.GetConfig()),
		Verify:         verify.New(o.policy),
		Observe:        reporter.Observe,
	})
}

func addTargetClusters(mgr ctrl.Manager, o options, resolver *issuer.Issuer) error {
	if err := addFederation(mgr, resolver); err != nil {
		return err
	}
	clusters, err := controller.New(controller.TargetClustersConfig{
		Client:      mgr.GetClient(),
		Resolver:    resolver,
		Egress:      o.policy,
		Events:      mgr.GetEventRecorder(name),
		Metrics:     ctrlmetrics.Registry,
		Concurrency: o.maxConcurrentProbes,
		Timeout:     o.targetTimeout,
	})
	if err != nil {
		return err
	}
	return clusters.SetupWithManager(mgr)
}

// addFederation keeps the ConfigMaps of federated Pods, with a cache of its own: one cache takes
// ConfigMaps of one name.
func addFederation(mgr ctrl.Manager, resolver controller.Resolver) error {
	configMaps, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient:       mgr.GetHTTPClient(),
		Scheme:           mgr.GetScheme(),
		Mapper:           mgr.GetRESTMapper(),
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject:         map[client.Object]cache.ByObject{&corev1.ConfigMap{}: named(injector.FederationConfigMap)},
	})
	if err != nil {
		return err
	}
	published, err := federation.New(federation.Config{
		Client:   mgr.GetClient(),
		Reader:   mgr.GetAPIReader(),
		Cache:    configMaps,
		Resolver: resolver,
		Events:   mgr.GetEventRecorder(name),
	})
	if err != nil {
		return err
	}
	return errors.Join(mgr.Add(configMaps), published.SetupWithManager(mgr))
}

// newBuiltin returns Keyferry's own CA; nil if others make the certificates.
func newBuiltin(mgr ctrl.Manager, o options) (*certificates.Builtin, error) {
	if o.certificates != "builtin" {
		return nil, nil //nolint:nilnil // no CA of its own is no error
	}
	return certificates.NewBuiltin(certificates.BuiltinConfig{
		Reader:    mgr.GetAPIReader(),
		Writer:    mgr.GetClient(),
		Events:    mgr.GetEventRecorder(name),
		Metrics:   ctrlmetrics.Registry,
		Namespace: o.namespace,
		Secret:    authoritySecret,
		Leaves:    map[string]string{webhookSecret: o.webhookService, brokerSecret: o.brokerService},
	})
}

func addCertificates(mgr ctrl.Manager, o options, builtin *certificates.Builtin) error {
	trust, err := certificates.NewTrust(mgr.GetClient(), mgr.GetEventRecorder(name), ctrlmetrics.Registry)
	if err != nil {
		return err
	}
	publisher := &certificates.Publisher{
		Client:               mgr.GetClient(),
		Trust:                trust,
		WebhookConfiguration: o.webhookConfiguration,
		Now:                  time.Now,
	}
	if builtin != nil {
		publisher.Source = builtin.Keep
	} else {
		publisher.Source = certificates.FromFile(o.trustBundleFile)
	}
	if o.certificates == "cert-manager" {
		publisher.WebhookConfiguration = "" // its CA injector does that
	}
	return errors.Join(trust.SetupWithManager(mgr), publisher.SetupWithManager(mgr))
}

// addMetrics serves the metrics, with a certificate of Keyferry's own CA or of the directory.
func addMetrics(ctx context.Context, mgr ctrl.Manager, o options, builtin *certificates.Builtin) error {
	served := o.metrics
	served.Gatherer = ctrlmetrics.Registry
	switch {
	case !served.Encrypted():
	case builtin != nil:
		own := builtin.Own(name)
		if err := mgr.Add(own); err != nil {
			return err
		}
		served.GetCertificate = own.GetCertificate
	case o.certDir != "":
		watcher, err := certwatcher.New(filepath.Join(o.certDir, "tls.crt"), filepath.Join(o.certDir, "tls.key"))
		if err != nil {
			return fmt.Errorf("reading the serving certificate in %s: %w", o.certDir, err)
		}
		if err := mgr.Add(watcher); err != nil {
			return err
		}
		served.GetCertificate = watcher.GetCertificate
	}
	return served.Add(ctx, mgr)
}

// newManager returns a manager that caches what is Keyferry's, and nothing else: no Secret at all,
// of ConfigMaps and webhook configurations only those with the right name, of namespaces, and of
// Pods that have a token for another cluster, the metadata.
func newManager(o options, lockWatch *locks.Watch) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), inventory.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("building the scheme: %w", err)
	}
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the API server of this cluster: %w", err)
	}
	if err := metrics.OfProgram(ctrlmetrics.Registry, "controller", cfg); err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 50, 100 // one Secret per target and minute, and at the start a ConfigMap per namespace
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme,
		Cache: cache.Options{
			DefaultTransform:         cache.TransformStripManagedFields(),
			DefaultWatchErrorHandler: lockWatch.WatchError,
			ByObject: map[client.Object]cache.ByObject{
				&v1alpha1.TargetCluster{}:                     {Transform: lean.Metadata},
				&corev1.Namespace{}:                           {Transform: o.secretAccess.namespaceTransform()},
				&rbacv1.RoleBinding{}:                         named(secretaccess.RoleBinding),
				&corev1.ConfigMap{}:                           named(injector.TrustConfigMap),
				&corev1.Pod{}:                                 {Label: labels.SelectorFromSet(labels.Set{injector.LabelFederated: "true"}), Transform: federation.Strip},
				&admissionv1.MutatingWebhookConfiguration{}:   named(o.webhookConfiguration),
				&admissionv1.ValidatingWebhookConfiguration{}: named(o.webhookConfiguration),
			},
		},
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		Metrics:                       metricsserver.Options{BindAddress: "0"}, // package monitoring serves them
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              name,
		LeaderElectionNamespace:       o.namespace,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, fmt.Errorf("building the manager: %w", err)
	}
	return mgr, nil
}

func named(name string) cache.ByObject {
	return cache.ByObject{Field: fields.OneTermEqualSelector("metadata.name", name)}
}
