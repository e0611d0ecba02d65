package certificates

import (
	"context"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
)

var server *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { server = cfg }))
}

// world is a namespace of Keyferry's, with its webhook configurations, and a clock.
type world struct {
	t         *testing.T
	client    client.Client
	namespace string
	now       time.Time
	events    *events.FakeRecorder
	trust     *Trust
	writes    atomic.Int32
	builtin   *Builtin
	publisher *Publisher
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Now().Truncate(time.Second), events: events.NewFakeRecorder(16)}
	counted := rest.CopyConfig(server)
	counted.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Method != http.MethodGet {
				w.writes.Add(1)
			}
			return next.RoundTrip(req)
		})
	})
	w.client = must[client.Client](t)(client.New(counted, client.Options{Scheme: scheme.Scheme}))
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "keyferry-"}}
	w.create(namespace)
	w.namespace = namespace.Name
	w.create(mutating(w.namespace))
	w.create(validating(w.namespace))

	w.builtin = must[*Builtin](t)(NewBuiltin(BuiltinConfig{
		Reader:    w.client,
		Writer:    w.client,
		Events:    w.events,
		Metrics:   prometheus.NewRegistry(),
		Namespace: w.namespace,
		Secret:    "keyferry-ca",
		Leaves:    map[string]string{"keyferry-broker-tls": "keyferry-broker", "keyferry-webhook-tls": "keyferry-webhook"},
		Now:       func() time.Time { return w.now },
	}))
	w.trust = must[*Trust](t)(NewTrust(w.client, w.events, prometheus.NewRegistry()))
	w.publisher = &Publisher{
		Client:               w.client,
		Source:               w.builtin.Keep,
		Trust:                w.trust,
		WebhookConfiguration: w.namespace,
		Now:                  func() time.Time { return w.now },
	}
	return w
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func mutating(name string) *admissionv1.MutatingWebhookConfiguration {
	none := admissionv1.SideEffectClassNone
	cfg := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, hook := range []string{"first.keyferry.dev", "second.keyferry.dev"} {
		cfg.Webhooks = append(cfg.Webhooks, admissionv1.MutatingWebhook{
			Name: hook, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "keyferry-system", Name: "keyferry-webhook"}},
		})
	}
	return cfg
}

func validating(name string) *admissionv1.ValidatingWebhookConfiguration {
	none := admissionv1.SideEffectClassNone
	return &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "workloads.keyferry.dev", SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "keyferry-system", Name: "keyferry-webhook"}},
		}},
	}
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	if err := w.client.Create(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := client.IgnoreNotFound(w.client.Delete(context.WithoutCancel(w.t.Context()), o)); err != nil {
			w.t.Error(err)
		}
	})
}

func (w *world) reconcile() time.Duration {
	w.t.Helper()
	return must[reconcile.Result](w.t)(w.publisher.Reconcile(w.t.Context(), reconcile.Request{})).RequeueAfter
}

func (w *world) secret(name string) *corev1.Secret {
	w.t.Helper()
	secret := &corev1.Secret{}
	if err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.namespace, Name: name}, secret); err != nil {
		w.t.Fatal(err)
	}
	return secret
}

// published is what the webhook configurations and the ConfigMaps have, which must be the same.
func (w *world) published() string {
	w.t.Helper()
	bundle := *w.trust.bundle.Load()
	m, v := &admissionv1.MutatingWebhookConfiguration{}, &admissionv1.ValidatingWebhookConfiguration{}
	for _, cfg := range []client.Object{m, v} {
		if err := w.client.Get(w.t.Context(), client.ObjectKey{Name: w.namespace}, cfg); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, hook := range []admissionv1.WebhookClientConfig{m.Webhooks[0].ClientConfig, m.Webhooks[1].ClientConfig, v.Webhooks[0].ClientConfig} {
		if string(hook.CABundle) != bundle {
			w.t.Errorf("caBundle is %q, want %q", hook.CABundle, bundle)
		}
		if hook.Service.Name != "keyferry-webhook" {
			w.t.Errorf("more than the caBundle was changed: %+v", hook)
		}
	}
	return bundle
}

// check verifies what is served as clients do.
func (w *world) check() {
	w.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(w.published()))
	for secret, host := range map[string]string{
		"keyferry-broker-tls":  "keyferry-broker." + w.namespace + ".svc",
		"keyferry-webhook-tls": "keyferry-webhook." + w.namespace + ".svc",
	} {
		data := w.secret(secret).Data
		l := parseLeaf(data)
		if l.pair == nil || l.pair.key == nil {
			w.t.Fatalf("Secret %s: not a certificate with its key", secret)
		}
		options := x509.VerifyOptions{Roots: roots, CurrentTime: w.now, DNSName: host}
		if _, err := l.pair.cert.Verify(options); err != nil {
			w.t.Errorf("Secret %s: %v", secret, err)
		}
		if string(data[caKey]) != *w.trust.bundle.Load() {
			w.t.Errorf("Secret %s: ca.crt is not what is published", secret)
		}
	}
}

func (w *world) wantEvents(prefixes ...string) {
	w.t.Helper()
	for _, prefix := range prefixes {
		select {
		case got := <-w.events.Events:
			if !strings.HasPrefix(got, prefix) {
				w.t.Errorf("Event %q, want %q", got, prefix)
			}
		default:
			w.t.Errorf("no Event, want %q", prefix)
		}
	}
	select {
	case got := <-w.events.Events:
		w.t.Errorf("Event %q, want no more", got)
	default:
	}
}

func TestBuiltin(t *testing.T) {
	w := newWorld(t)
	if after := w.reconcile(); after != period {
		t.Errorf("comes again after %s, want %s", after, period)
	}
	w.check()
	w.wantEvents()
	if kind := w.secret("keyferry-broker-tls").Type; kind != corev1.SecretTypeTLS {
		t.Errorf("the Secret is of type %s", kind)
	}

	before := w.writes.Load()
	for range 3 {
		w.now = w.now.Add(day)
		w.reconcile()
	}
	if writes := w.writes.Load() - before; writes != 0 {
		t.Errorf("%d writes while nothing changes", writes)
	}
}

func TestBuiltinLife(t *testing.T) {
	w := newWorld(t)
	w.reconcile()
	first, leaf := w.published(), string(w.secret("keyferry-broker-tls").Data[corev1.TLSCertKey])

	w.now = w.now.Add(60 * day)
	w.reconcile()
	w.check()
	if string(w.secret("keyferry-broker-tls").Data[corev1.TLSCertKey]) == leaf {
		t.Error("the leaf was not renewed after two thirds of its life")
	}

	w.now = w.now.Add(authorityLife - successorAhead - 60*day)
	w.reconcile()
	w.check()
	w.wantEvents("Normal AuthorityAnnounced")
	if both := w.published(); !strings.HasPrefix(both, first) || both == first {
		t.Error("the successor must be published beside the authority")
	}
	leaf = string(w.secret("keyferry-broker-tls").Data[corev1.TLSCertKey])

	w.now = w.now.Add(publishedAhead)
	w.reconcile()
	w.check()
	w.wantEvents("Normal AuthorityPromoted")
	if string(w.secret("keyferry-broker-tls").Data[corev1.TLSCertKey]) != leaf {
		t.Error("the leaf is good for a while, and must not be signed anew with all others at once")
	}

	w.now = w.now.Add(leafLife)
	w.reconcile()
	w.check()
	if last := w.published(); strings.Contains(last, first) {
		t.Error("the old authority is published when nothing that it signed is valid")
	}
	w.wantEvents()
}

func TestBuiltinRepairs(t *testing.T) {
	tests := map[string]struct {
		secret string
		spoil  func(*corev1.Secret) *corev1.Secret // nil: delete it
		events []string
	}{
		"authority deleted": {"keyferry-ca", func(*corev1.Secret) *corev1.Secret { return nil }, []string{"Warning AuthorityReplaced"}},
		"authority emptied": {"keyferry-ca", func(s *corev1.Secret) *corev1.Secret {
			s.Data = map[string][]byte{corev1.TLSCertKey: {}, corev1.TLSPrivateKeyKey: {}}
			return s
		}, []string{"Warning AuthorityReplaced"}},
		"authority's key spoilt": {"keyferry-ca", func(s *corev1.Secret) *corev1.Secret { s.Data[currentKey] = []byte("x"); return s }, []string{"Warning AuthorityReplaced"}},
		"leaf deleted":           {"keyferry-broker-tls", func(*corev1.Secret) *corev1.Secret { return nil }, nil},
		"leaf spoilt":            {"keyferry-broker-tls", func(s *corev1.Secret) *corev1.Secret { s.Data[corev1.TLSCertKey] = []byte("x"); return s }, nil},
		"bundle beside the leaf": {"keyferry-broker-tls", func(s *corev1.Secret) *corev1.Secret { delete(s.Data, caKey); return s }, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.reconcile()
			old := w.published()
			secret := w.secret(tt.secret)
			var err error
			if spoilt := tt.spoil(secret); spoilt == nil {
				err = w.client.Delete(t.Context(), secret)
			} else {
				err = w.client.Update(t.Context(), spoilt)
			}
			if err != nil {
				t.Fatal(err)
			}
			w.reconcile()
			w.check()
			w.wantEvents(tt.events...)
			if !strings.Contains(w.published(), old) {
				t.Error("the old authority is no longer published, though Pods may serve with its leaves")
			}
		})
	}
}

func TestCABundleIsRestored(t *testing.T) {
	w := newWorld(t)
	w.reconcile()
	cfg := &admissionv1.MutatingWebhookConfiguration{}
	if err := w.client.Get(t.Context(), client.ObjectKey{Name: w.namespace}, cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Webhooks[1].ClientConfig.CABundle = nil
	if err := w.client.Update(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	w.published()
}

// Whoever cannot be told must not keep the others from being served.
func TestLeavesAreSignedThoughPublishingFails(t *testing.T) {
	w := newWorld(t)
	refusing := rest.CopyConfig(server)
	refusing.Impersonate.UserName = "nobody"
	w.publisher.Client = must[client.Client](t)(client.New(refusing, client.Options{Scheme: scheme.Scheme}))
	if _, err := w.publisher.Reconcile(t.Context(), reconcile.Request{}); err == nil || !strings.Contains(err.Error(), "WebhookConfiguration") {
		t.Errorf("got %v, want an error that names the configuration", err)
	}
	if l := parseLeaf(w.secret("keyferry-broker-tls").Data); !l.pair.usable(w.now) {
		t.Error("no certificate was signed")
	}
}

func TestFromFile(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "ca.crt")
	w.publisher.Source = FromFile(file)
	if _, err := w.publisher.Reconcile(t.Context(), reconcile.Request{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("no file: got %v", err)
	}
	if err := os.WriteFile(file, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.publisher.Reconcile(t.Context(), reconcile.Request{}); err == nil || !strings.Contains(err.Error(), "no PEM certificates") {
		t.Errorf("no PEM: got %v", err)
	}
	if w.trust.bundle.Load() != nil {
		t.Error("something was published")
	}
	bundle := must[[]byte](t)(encodeAll([]*x509.Certificate{authorityAt(t, w.now).cert}))
	if err := os.WriteFile(file, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	if w.published() != string(bundle) {
		t.Error("not the file's content was published")
	}
}

// run starts what the program runs, with caches restricted as there.
func (w *world) run() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	name := fields.OneTermEqualSelector("metadata.name", w.namespace)
	noValidation := true
	mgr := must[ctrl.Manager](w.t)(ctrl.NewManager(server, ctrl.Options{
		Scheme:     scheme.Scheme,
		Logger:     logr.Discard(),
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &noValidation},
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			&corev1.ConfigMap{}:                           {Field: fields.OneTermEqualSelector("metadata.name", injector.TrustConfigMap)},
			&admissionv1.MutatingWebhookConfiguration{}:   {Field: name},
			&admissionv1.ValidatingWebhookConfiguration{}: {Field: name},
		}},
	}))
	w.trust = must[*Trust](w.t)(NewTrust(mgr.GetClient(), w.events, prometheus.NewRegistry()))
	w.publisher.Trust, w.publisher.Client = w.trust, mgr.GetClient()
	for _, setUp := range []func(ctrl.Manager) error{w.trust.SetupWithManager, w.publisher.SetupWithManager} {
		if err := setUp(mgr); err != nil {
			w.t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() { done <- mgr.Start(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// eventually waits until ok.
func (w *world) eventually(what string, ok func(context.Context) bool) {
	w.t.Helper()
	err := wait.PollUntilContextTimeout(w.t.Context(), 20*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		return ok(ctx), nil
	})
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

// trusted reports whether a namespace has the bundle.
func (w *world) trusted(namespace string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		cm := &corev1.ConfigMap{}
		err := w.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: injector.TrustConfigMap}, cm)
		bundle := w.trust.bundle.Load()
		return err == nil && bundle != nil && cm.Data[caKey] == *bundle && len(cm.Data) == 1
	}
}

func TestTrustInEveryNamespace(t *testing.T) {
	w := newWorld(t)
	w.run()
	w.eventually("existing namespaces", w.trusted("default"))
	w.eventually("the caBundle", func(ctx context.Context) bool {
		cfg := &admissionv1.MutatingWebhookConfiguration{}
		err := w.client.Get(ctx, client.ObjectKey{Name: w.namespace}, cfg)
		return err == nil && string(cfg.Webhooks[1].ClientConfig.CABundle) == *w.trust.bundle.Load()
	})

	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}}
	w.create(namespace)
	w.eventually("a new namespace", w.trusted(namespace.Name))

	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: injector.TrustConfigMap}}
	if err := w.client.Update(t.Context(), &corev1.ConfigMap{ObjectMeta: cm.ObjectMeta, Data: map[string]string{caKey: "evil", "more": "x"}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("an edited ConfigMap", w.trusted(namespace.Name))

	if err := w.client.Delete(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	w.eventually("a deleted ConfigMap", w.trusted(namespace.Name))

	before := *w.trust.bundle.Load()
	w.trust.Publish(must[[]byte](t)(encodeAll([]*x509.Certificate{authorityAt(t, w.now).cert})))
	if *w.trust.bundle.Load() == before {
		t.Fatal("nothing new was published")
	}
	w.eventually("another bundle", w.trusted(namespace.Name))
}

func TestTerminatingNamespaceIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.reconcile()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-"}}
	w.create(namespace)
	// Without a controller manager, a namespace terminates for ever.
	if err := w.client.Delete(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	before := w.writes.Load()
	for _, write := range map[string]func() error{
		"seen": func() error {
			_, err := w.trust.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(namespace)})
			return err
		},
		"not seen yet": func() error { return w.trust.write(t.Context(), namespace.Name, map[string]string{caKey: "x"}) },
	} {
		if err := write(); err != nil {
			t.Error(err)
		}
	}
	if writes := w.writes.Load() - before; writes > 1 {
		t.Errorf("%d attempts to write", writes)
	}
}
