package certificates

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
	keyferryevents "github.com/keyferry/keyferry/internal/events"
	"github.com/keyferry/keyferry/internal/metrics"
)

// Trust keeps the bundle, under the key ca.crt, in the ConfigMap injector.TrustConfigMap of every
// namespace, as Kubernetes keeps kube-root-ca.crt: also in a new namespace, and after a user edited
// it, deleted it, or made it immutable.
type Trust struct {
	client  client.Client
	events  events.EventRecorder
	blocked blockedNamespaces
	bundle  atomic.Pointer[string]
	changed chan event.GenericEvent
}

// NewTrust returns a Trust that writes nothing until it is told what to publish. The cache behind c
// need hold no ConfigMaps but these.
func NewTrust(c client.Client, recorder events.EventRecorder, registerer prometheus.Registerer) (*Trust, error) {
	t := &Trust{client: c, events: recorder, changed: make(chan event.GenericEvent, 1)}
	t.blocked.gauge = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "keyferry_trust_configmaps_blocked",
		Help: "Number of namespaces in which a quota or policy denies the ConfigMap keyferry-trust.",
	})
	return t, metrics.Register(registerer, t.blocked.gauge)
}

// blockedNamespaces are those whose ConfigMap cannot be written.
type blockedNamespaces struct {
	mu    sync.Mutex
	names sets.Set[string]
	gauge prometheus.Gauge
}

func (b *blockedNamespaces) set(namespace string, isBlocked bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if isBlocked {
		b.names = sets.New(namespace).Union(b.names)
	} else {
		b.names.Delete(namespace)
	}
	b.gauge.Set(float64(b.names.Len()))
}

// Publish makes bundle the content of all ConfigMaps, soon.
func (t *Trust) Publish(bundle []byte) {
	published := string(bundle)
	if before := t.bundle.Swap(&published); before != nil && *before == published {
		return
	}
	select {
	case t.changed <- event.GenericEvent{Object: &corev1.Namespace{}}:
	default: // the event that is waiting already will do
	}
}

// SetupWithManager makes t watch namespaces, of which only the metadata are read, and its own
// ConfigMaps.
func (t *Trust) SetupWithManager(mgr ctrl.Manager) error {
	toNamespace := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.GetNamespace()}}}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("trust").
		WithOptions(patience()).
		For(&corev1.Namespace{}, builder.OnlyMetadata).
		Watches(&corev1.ConfigMap{}, toNamespace).
		WatchesRawSource(source.Channel(t.changed, handler.EnqueueRequestsFromMapFunc(t.allNamespaces))).
		Complete(t)
}

func (t *Trust) allNamespaces(ctx context.Context, _ client.Object) []reconcile.Request {
	namespaces := &metav1.PartialObjectMetadataList{}
	namespaces.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := t.client.List(ctx, namespaces); err != nil {
		// Reading a cache fails only when the manager stops.
		ctrl.LoggerFrom(ctx).Error(err, "namespaces not listed")
		return nil
	}
	requests := make([]reconcile.Request, 0, len(namespaces.Items))
	for i := range namespaces.Items {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Name: namespaces.Items[i].Name}})
	}
	return requests
}

// Reconcile brings the ConfigMap of one namespace up to date.
func (t *Trust) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	bundle := t.bundle.Load()
	if bundle == nil {
		return reconcile.Result{}, nil
	}
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := t.client.Get(ctx, req.NamespacedName, namespace); err != nil {
		if apierrors.IsNotFound(err) {
			t.blocked.set(req.Name, false)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !namespace.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, nil
	}
	err := t.write(ctx, req.Name, map[string]string{caKey: *bundle})
	isBlocked := isDenied(err)
	t.blocked.set(req.Name, isBlocked)
	if isBlocked {
		configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: req.Name, Name: injector.TrustConfigMap}}
		t.events.Eventf(configMap, nil, corev1.EventTypeWarning, v1alpha1.EventNotKept, "Publish", "%s", keyferryevents.Limit(fmt.Sprintf(
			"Pods of this namespace that use another cluster do not start without this ConfigMap: allow the ConfigMap in the quota or policy: %v", err)))
	}
	return reconcile.Result{}, err
}

// isDenied reports whether the API server has denied a write because of what is to be written: by a
// quota, a policy or a webhook.
func isDenied(err error) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		return false
	}
	switch status.ErrStatus.Code {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

func (t *Trust) write(ctx context.Context, namespace string, data map[string]string) error {
	cm := &corev1.ConfigMap{}
	err := t.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: injector.TrustConfigMap}, cm)
	switch {
	case apierrors.IsNotFound(err):
		err = t.create(ctx, namespace, data)
	case err == nil && (isImmutable(cm) || !cm.DeletionTimestamp.IsZero()):
		err = t.replace(ctx, cm.DeepCopy(), data)
	case err == nil && maps.Equal(cm.Data, data) && len(cm.BinaryData) == 0:
		return nil
	case err == nil:
		cm = cm.DeepCopy()
		cm.Data, cm.BinaryData = data, nil
		err = t.client.Update(ctx, cm, FieldOwner)
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keeping ConfigMap %s/%s: %w", namespace, injector.TrustConfigMap, err)
	}
	return nil
}

func (t *Trust) create(ctx context.Context, namespace string, data map[string]string) error {
	return t.client.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Name:      injector.TrustConfigMap,
			Labels:    map[string]string{"app.kubernetes.io/managed-by": "keyferry-controller"},
			Annotations: map[string]string{"kubernetes.io/description": "The CA of Keyferry's broker, " +
				"for Pods with the annotation keyferry.dev/cluster. Keyferry undoes changes of this ConfigMap."},
		},
		Data: data,
	}, FieldOwner)
}

// isImmutable reports whether no update can change the content of a ConfigMap.
func isImmutable(cm *corev1.ConfigMap) bool { return cm.Immutable != nil && *cm.Immutable }

// replace deletes a ConfigMap, without waiting for anybody's finalizers, and creates it again.
func (t *Trust) replace(ctx context.Context, cm *corev1.ConfigMap, data map[string]string) error {
	if len(cm.Finalizers) > 0 {
		cm.Finalizers = nil
		if err := t.client.Update(ctx, cm, FieldOwner); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	if cm.DeletionTimestamp.IsZero() {
		if err := t.client.Delete(ctx, cm, client.Preconditions{UID: &cm.UID}); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	return t.create(ctx, cm.Namespace, data)
}
