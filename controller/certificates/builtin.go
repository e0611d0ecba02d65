package certificates

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
)

// BuiltinConfig is what a Builtin needs.
type BuiltinConfig struct {
	// Reader reads the Secrets from the API server itself: only those that are named here, and each by
	// its name.
	Reader  client.Reader
	Writer  client.Writer
	Events  events.EventRecorder
	Metrics prometheus.Registerer

	// Namespace of the Secrets and the Services.
	Namespace string
	// Secret is the name of the authority's Secret.
	Secret string
	// Leaves are the serving certificates: from the name of the Secret to that of the Service.
	Leaves map[string]string

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Builtin is Keyferry's own certificate authority. It keeps nothing in memory: of two that run at
// the same time, one gets a conflict and tries again.
type Builtin struct {
	cfg   BuiltinConfig
	names map[string][]string // DNS names by leaf
	ends  *prometheus.GaugeVec
}

// NewBuiltin returns a Builtin, or an error that says what cfg lacks.
func NewBuiltin(cfg BuiltinConfig) (*Builtin, error) {
	switch {
	case cfg.Reader == nil || cfg.Writer == nil || cfg.Events == nil || cfg.Metrics == nil:
		return nil, errors.New("certificates: Reader, Writer, Events and Metrics are required")
	case cfg.Namespace == "" || cfg.Secret == "":
		return nil, errors.New("certificates: Namespace and Secret are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	b := &Builtin{
		cfg:   cfg,
		names: map[string][]string{},
		ends: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keyferry_certificate_expiration_timestamp_seconds",
			Help: "Time at which the certificate in the Secret expires.",
		}, []string{"secret"}),
	}
	for secret, service := range cfg.Leaves {
		b.names[secret] = b.dnsNames(service)
	}
	return b, cfg.Metrics.Register(b.ends)
}

// dnsNames returns the names of a Service.
func (b *Builtin) dnsNames(service string) []string {
	host := service + "." + b.cfg.Namespace
	return []string{host + ".svc", host + ".svc.cluster.local", host}
}

// Keep is the Source of a Publisher: it brings the authority up to date, has it published, and only
// then signs with it.
func (b *Builtin) Keep(ctx context.Context, publish func(context.Context, []byte) error) (time.Time, error) {
	secrets, leaves, err := b.readLeaves(ctx)
	if err != nil {
		return time.Time{}, err
	}
	a, err := b.advance(ctx, leaves)
	if err != nil {
		return time.Time{}, err
	}
	bundle, err := encodeAll(a.published())
	if err != nil {
		return time.Time{}, err
	}
	b.ends.WithLabelValues(b.cfg.Secret).Set(float64(a.current.cert.NotAfter.Unix()))
	// One who cannot be told must not keep the others from being served.
	errs := publish(ctx, bundle)

	p := decide(b.cfg.Now(), a, leaves, b.names)
	for name, secret := range secrets {
		if err := b.keepLeaf(ctx, secret, leaves[name], a.current, bundle, p.sign[name]); err != nil {
			errs = errors.Join(errs, err)
		}
	}
	return p.wake, errs
}

func (b *Builtin) readLeaves(ctx context.Context) (map[string]*corev1.Secret, map[string]leaf, error) {
	secrets, leaves := map[string]*corev1.Secret{}, map[string]leaf{}
	for name := range b.names {
		secret, err := b.read(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		secrets[name], leaves[name] = secret, parseLeaf(secret.Data)
	}
	return secrets, leaves, nil
}

// advance takes the authority through the steps that are due, and writes it down before anybody
// sees the result.
func (b *Builtin) advance(ctx context.Context, leaves map[string]leaf) (authority, error) {
	secret, err := b.read(ctx, b.cfg.Secret)
	if err != nil {
		return authority{}, err
	}
	var taken []plan
	a := parseAuthority(secret.Data)
	for p := decide(b.cfg.Now(), a, leaves, b.names); p.step != keep; p = decide(b.cfg.Now(), a, leaves, b.names) {
		if a, err = a.apply(p.step, b.cfg.Now(), leaves); err != nil {
			return authority{}, err
		}
		taken = append(taken, p)
	}
	if len(taken) == 0 {
		return a, nil
	}
	data, err := a.encode()
	if err != nil {
		return authority{}, err
	}
	if err := b.write(ctx, secret, data); err != nil {
		return authority{}, err
	}
	for _, p := range taken {
		b.report(ctx, secret, p, len(a.previous) > 0 || anyPair(leaves))
	}
	return a, nil
}

func anyPair(leaves map[string]leaf) bool {
	for _, l := range leaves {
		if l.pair != nil {
			return true
		}
	}
	return false
}

// report tells of a step. A new authority is news only where there has been another before.
func (b *Builtin) report(ctx context.Context, secret *corev1.Secret, p plan, before bool) {
	log.FromContext(ctx).Info("certificate authority changed", "secret", client.ObjectKeyFromObject(secret).String(), "step", p.step, "reason", p.reason)
	switch p.step {
	case replace:
		if before {
			b.cfg.Events.Eventf(secret, nil, corev1.EventTypeWarning, v1alpha1.EventAuthorityReplaced, "ReplaceAuthority",
				"The controller created a new CA because of a problem with the old CA: %s. Pods might not trust the broker until the kubelet has updated their ConfigMap %s, which takes about a minute",
				p.reason, injector.TrustConfigMap)
		}
	case announce:
		b.cfg.Events.Eventf(secret, nil, corev1.EventTypeNormal, v1alpha1.EventAuthorityAnnounced, "AnnounceAuthority",
			"The controller published the next CA (%s), which signs certificates in %d days", p.reason, int(publishedAhead.Hours()/24))
	case promote:
		b.cfg.Events.Eventf(secret, nil, corev1.EventTypeNormal, v1alpha1.EventAuthorityPromoted, "PromoteAuthority",
			"The next CA now signs certificates: %s", p.reason)
	case forget, keep:
	}
}

// keepLeaf signs a leaf if there is a reason to, and keeps the bundle beside it as published.
func (b *Builtin) keepLeaf(ctx context.Context, secret *corev1.Secret, l leaf, by *pair, bundle []byte, reason string) error {
	if reason != "" {
		var err error
		if l.pair, err = newLeaf(b.cfg.Now(), b.names[secret.Name], by); err != nil {
			return err
		}
	}
	b.ends.WithLabelValues(secret.Name).Set(float64(l.pair.cert.NotAfter.Unix()))
	if reason == "" && bytes.Equal(secret.Data[caKey], bundle) {
		return nil
	}
	cert, key, err := l.pair.encode()
	if err != nil {
		return fmt.Errorf("encoding the certificate of Secret %s: %w", secret.Name, err)
	}
	err = b.write(ctx, secret, map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key, caKey: bundle})
	if err == nil && reason != "" {
		log.FromContext(ctx).Info("certificate signed", "secret", client.ObjectKeyFromObject(secret).String(), "reason", reason, "notAfter", l.pair.cert.NotAfter)
	}
	return err
}

// read returns the Secret; where there is none, one without a resourceVersion, to be created.
func (b *Builtin) read(ctx context.Context, name string) (*corev1.Secret, error) {
	key := types.NamespacedName{Namespace: b.cfg.Namespace, Name: name}
	secret := &corev1.Secret{}
	err := b.cfg.Reader.Get(ctx, key, secret)
	if apierrors.IsNotFound(err) {
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: key.Namespace,
				Name:      key.Name,
				Labels:    map[string]string{"app.kubernetes.io/managed-by": "keyferry-controller"},
			},
			Type: corev1.SecretTypeTLS,
		}
		return secret, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading Secret %s: %w", key, err)
	}
	return secret, nil
}

// write replaces the Secret's data. Its resourceVersion makes it fail if somebody else did so
// first.
func (b *Builtin) write(ctx context.Context, secret *corev1.Secret, data map[string][]byte) error {
	secret.Data = data
	var err error
	if secret.ResourceVersion == "" {
		err = b.cfg.Writer.Create(ctx, secret)
	} else {
		err = b.cfg.Writer.Update(ctx, secret)
	}
	if err != nil {
		return fmt.Errorf("writing Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}
