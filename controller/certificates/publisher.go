// Package certificates keeps the certificates that webhook and broker serve with, and tells
// everybody whom to trust.
//
// A Source knows the bundle of certificate authorities, and may be one itself (Builtin). The
// Publisher writes the bundle into the webhook configurations, Trust into a ConfigMap of every
// namespace, from which Pods mount it. What is to be done to the authority and its leaves is
// decided by a pure function of the time and the Secrets' content.
package certificates

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cert-manager/cert-manager/pkg/util/pki"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// FieldOwner is the name under which this package writes.
const FieldOwner = client.FieldOwner("keyferry-controller")

// patience bounds the pause after an error: what has to be repaired must not wait for the usual
// quarter of an hour.
func patience() controller.Options {
	return controller.Options{RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](100*time.Millisecond, period)}
}

// period is how often Secrets and files are read again: neither is watched.
const period = time.Minute

// A Source calls publish once with the bundle (PEM) that is to be trusted, does what is to be done
// after that, and returns when it wants to be asked again at the latest; zero leaves that to the
// caller.
type Source func(ctx context.Context, publish func(context.Context, []byte) error) (time.Time, error)

// FromFile is the Source of a bundle that somebody else keeps in a file.
func FromFile(path string) Source {
	return func(ctx context.Context, publish func(context.Context, []byte) error) (time.Time, error) {
		bundle, err := os.ReadFile(path) //nolint:gosec // the operator's flag names it
		if err != nil {
			return time.Time{}, fmt.Errorf("reading the trust bundle: %w", err)
		}
		if _, err := pki.DecodeX509CertificateSetBytes(bundle); err != nil {
			return time.Time{}, fmt.Errorf("reading the trust bundle %s: it contains no PEM certificates: %w", path, err)
		}
		return time.Time{}, publish(ctx, bundle)
	}
}

// Publisher takes the bundle from its Source to where it is read.
type Publisher struct {
	Client client.Client
	Source Source
	Trust  *Trust
	// WebhookConfiguration is the name of the mutating and of the validating webhook configuration
	// whose caBundle is kept. Empty: somebody else does.
	WebhookConfiguration string
	// Now is the clock.
	Now func() time.Time
}

// SetupWithManager makes p run when the manager starts, every minute, and when a webhook
// configuration changes.
func (p *Publisher) SetupWithManager(mgr ctrl.Manager) error {
	// There is but one thing to reconcile, and it has no object.
	all := reconcile.Request{NamespacedName: types.NamespacedName{Name: "certificates"}}
	toAll := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{all} })
	start := make(chan event.GenericEvent, 1)
	start <- event.GenericEvent{Object: &admissionv1.MutatingWebhookConfiguration{}}

	b := ctrl.NewControllerManagedBy(mgr).Named("certificates").WithOptions(patience()).WatchesRawSource(source.Channel(start, toAll))
	if p.WebhookConfiguration != "" {
		b = b.Watches(&admissionv1.MutatingWebhookConfiguration{}, toAll).
			Watches(&admissionv1.ValidatingWebhookConfiguration{}, toAll)
	}
	return b.Complete(p)
}

// Reconcile publishes whatever the Source says now.
func (p *Publisher) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	wake, err := p.Source(ctx, p.publish)
	if err != nil {
		return reconcile.Result{}, err
	}
	after := period
	if left := wake.Sub(p.Now()); !wake.IsZero() && left < after {
		after = max(left, time.Second)
	}
	return reconcile.Result{RequeueAfter: after}, nil
}

func (p *Publisher) publish(ctx context.Context, bundle []byte) error {
	p.Trust.Publish(bundle)
	if p.WebhookConfiguration == "" {
		return nil
	}
	return errors.Join(p.publishMutating(ctx, bundle), p.publishValidating(ctx, bundle))
}

func (p *Publisher) publishMutating(ctx context.Context, bundle []byte) error {
	cfg := &admissionv1.MutatingWebhookConfiguration{}
	return p.patch(ctx, cfg, bundle, func() (hooks []*admissionv1.WebhookClientConfig) {
		for i := range cfg.Webhooks {
			hooks = append(hooks, &cfg.Webhooks[i].ClientConfig)
		}
		return hooks
	})
}

func (p *Publisher) publishValidating(ctx context.Context, bundle []byte) error {
	cfg := &admissionv1.ValidatingWebhookConfiguration{}
	return p.patch(ctx, cfg, bundle, func() (hooks []*admissionv1.WebhookClientConfig) {
		for i := range cfg.Webhooks {
			hooks = append(hooks, &cfg.Webhooks[i].ClientConfig)
		}
		return hooks
	})
}

// patch writes nothing but caBundle, and that only into the version that it has seen. A
// configuration that is not (yet) installed is left out.
func (p *Publisher) patch(ctx context.Context, cfg client.Object, bundle []byte, hooks func() []*admissionv1.WebhookClientConfig) error {
	err := p.Client.Get(ctx, types.NamespacedName{Name: p.WebhookConfiguration}, cfg)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %T %s: %w", cfg, p.WebhookConfiguration, err)
	}
	before, _ := cfg.DeepCopyObject().(client.Object)
	changed := false
	for _, hook := range hooks() {
		if !bytes.Equal(hook.CABundle, bundle) {
			hook.CABundle, changed = bundle, true
		}
	}
	if !changed {
		return nil
	}
	err = p.Client.Patch(ctx, cfg, client.StrategicMergeFrom(before, client.MergeFromWithOptimisticLock{}), FieldOwner)
	if err != nil {
		return fmt.Errorf("writing the caBundle of %T %s: %w", cfg, p.WebhookConfiguration, err)
	}
	return nil
}
