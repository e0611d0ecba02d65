// Package federation keeps what federated Pods know their targets by: a ConfigMap in each namespace
// that has such Pods.
//
// The kubelet gives such a Pod its token; address, authority and default namespace of the target
// come from here. A Pod waits for its ConfigMap, so what is there to be done is done as soon as the
// Pod is seen.
package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller"
	"github.com/keyferry/keyferry/injector"
)

const (
	fieldOwner = client.FieldOwner("keyferry-controller")

	// The label that tells the ConfigMap from somebody else's.
	managedBy = "app.kubernetes.io/managed-by"
	manager   = "keyferry-controller"

	// resync is for what is not watched: the ClusterProfiles that TargetClusters name.
	resync = time.Minute
	// afterRefusal is when the right to use a target is reviewed again: API servers learn of a new
	// RoleBinding one after the other.
	afterRefusal = 10 * time.Second
	// stale is how long a cache may take to hear of a write.
	stale = 100 * time.Millisecond
)

// Config is what ConfigMaps needs. All of it is required.
type Config struct {
	// Client reads TargetClusters and the metadata of Pods with the label injector.LabelFederated,
	// from a cache, and writes ConfigMaps.
	Client client.Client
	// Reader reads Pods from the API server itself.
	Reader client.Reader
	// Cache holds the ConfigMaps with the name injector.FederationConfigMap.
	Cache    cache.Cache
	Resolver controller.Resolver
	Events   events.EventRecorder
}

// ConfigMaps keeps the ConfigMap injector.FederationConfigMap, for those targets that Pods of its
// namespace have.
type ConfigMaps struct {
	cfg Config
}

// New returns ConfigMaps, or an error that says what cfg lacks.
func New(cfg Config) (*ConfigMaps, error) {
	if cfg.Client == nil || cfg.Reader == nil || cfg.Cache == nil || cfg.Resolver == nil || cfg.Events == nil {
		return nil, errors.New("federation: Client, Reader, Cache, Resolver and Events are required")
	}
	return &ConfigMaps{cfg: cfg}, nil
}

// SetupWithManager makes c watch Pods, of which only the metadata are read, TargetClusters and its
// own ConfigMaps.
func (c *ConfigMaps) SetupWithManager(mgr ctrl.Manager) error {
	toNamespace := func(_ context.Context, o client.Object) []reconcile.Request { return request(o.GetNamespace()) }
	return ctrl.NewControllerManagedBy(mgr).
		Named("federation").
		WithOptions(ctrlcontroller.Options{
			MaxConcurrentReconciles: 4,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](stale, resync),
		}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(toNamespace), builder.OnlyMetadata,
			builder.WithPredicates(predicate.AnnotationChangedPredicate{})).
		Watches(&v1alpha1.TargetCluster{}, handler.EnqueueRequestsFromMapFunc(c.namespacesOf), builder.WithPredicates(statusChanged())).
		WatchesRawSource(source.Kind(c.cfg.Cache, &corev1.ConfigMap{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, cm *corev1.ConfigMap) []reconcile.Request { return request(cm.Namespace) }))).
		Complete(c)
}

func request(namespace string) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: namespace}}}
}

// statusChanged: nothing is published before the status says what it is worth.
func statusChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*v1alpha1.TargetCluster)
		after, ok2 := e.ObjectNew.(*v1alpha1.TargetCluster)
		return ok && ok2 && !equality.Semantic.DeepEqual(before.Status, after.Status)
	}}
}

// namespacesOf returns those that have Pods of a TargetCluster.
func (c *ConfigMaps) namespacesOf(ctx context.Context, cluster client.Object) []reconcile.Request {
	pods, err := c.pods(ctx)
	if err != nil {
		// Reading a cache fails only when the manager stops.
		ctrl.LoggerFrom(ctx).Error(err, "federated Pods not listed")
		return nil
	}
	var requests []reconcile.Request
	seen := sets.New[string]()
	for i := range pods {
		if target, ok := targetOf(&pods[i]); ok && target == client.ObjectKeyFromObject(cluster) && !seen.Has(pods[i].Namespace) {
			seen.Insert(pods[i].Namespace)
			requests = append(requests, request(pods[i].Namespace)...)
		}
	}
	return requests
}

// pods returns the federated ones, which are not to be changed.
func (c *ConfigMaps) pods(ctx context.Context, opts ...client.ListOption) ([]metav1.PartialObjectMetadata, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	err := c.cfg.Client.List(ctx, list, append(opts, client.UnsafeDisableDeepCopy, client.MatchingLabels{injector.LabelFederated: "true"})...)
	return list.Items, err
}

// Strip keeps of a Pod's metadata what this package reads; it is the transform of its cache.
func Strip(object any) (any, error) {
	pod, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return object, nil
	}
	return &metav1.PartialObjectMetadata{TypeMeta: pod.TypeMeta, ObjectMeta: metav1.ObjectMeta{
		Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		Labels:      map[string]string{injector.LabelFederated: pod.Labels[injector.LabelFederated]},
		Annotations: map[string]string{injector.AnnotationStatus: pod.Annotations[injector.AnnotationStatus]},
	}}, nil
}

// targetOf returns the target that the webhook wrote into the Pod's status: unlike the annotation
// that a user wrote, it fits the Pod's spec. Users can write a status, too; so mayUse decides what
// is published for it.
func targetOf(pod client.Object) (types.NamespacedName, bool) {
	var status injector.Status
	if json.Unmarshal([]byte(pod.GetAnnotations()[injector.AnnotationStatus]), &status) != nil || !status.Federated() || len(status.Clusters) == 0 {
		return types.NamespacedName{}, false
	}
	return parseName(status.Clusters[0])
}

// Reconcile brings the ConfigMap of one namespace up to date.
func (c *ConfigMaps) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	pods, err := c.pods(ctx, client.InNamespace(req.Name))
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("listing Pods of namespace %s: %w", req.Name, err)
	}
	targets := sets.New[types.NamespacedName]()
	for i := range pods {
		if target, ok := targetOf(&pods[i]); ok {
			targets.Insert(target)
		}
	}
	have := &corev1.ConfigMap{}
	err = c.cfg.Cache.Get(ctx, types.NamespacedName{Namespace: req.Name, Name: injector.FederationConfigMap}, have)
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("reading ConfigMap %s/%s: %w", req.Name, injector.FederationConfigMap, err)
	}
	if there := err == nil; there && have.Labels[managedBy] != manager {
		if targets.Len() == 0 {
			return reconcile.Result{}, nil
		}
		c.warn(have, v1alpha1.EventNameTaken, "ConfigMap %s was not created by Keyferry, or has lost its label %s=%s: delete it, so that Keyferry can create it and federated Pods of this namespace can start",
			have.Name, managedBy, manager)
		return reconcile.Result{RequeueAfter: resync}, nil
	}
	data := map[string]string{}
	again := resync
	for target := range targets {
		entry, err := c.entry(ctx, req.Name, target, have.Data)
		if errors.Is(err, errForbidden) {
			again = afterRefusal
		} else if err != nil {
			return reconcile.Result{}, err
		}
		maps.Copy(data, entry)
	}
	err = c.write(ctx, req.Name, have, data)
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return reconcile.Result{RequeueAfter: stale}, nil // the cache will know soon
	case apierrors.IsInvalid(err), apierrors.IsRequestEntityTooLargeError(err):
		c.warn(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: req.Name, Name: injector.FederationConfigMap}},
			v1alpha1.EventNotKept, "Pods of this namespace have more federated targets than a ConfigMap can store: distribute them over several namespaces: %v", err)
	case apierrors.IsForbidden(err), apierrors.IsBadRequest(err):
		c.warn(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: req.Name, Name: injector.FederationConfigMap}},
			v1alpha1.EventNotKept, "federated Pods of this namespace do not start without this ConfigMap: allow the ConfigMap in the quota or policy: %v", err)
	}
	if err != nil || targets.Len() == 0 {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: again}, nil
}

func (c *ConfigMaps) warn(about *corev1.ConfigMap, reason, format string, args ...any) {
	c.cfg.Events.Eventf(about, nil, corev1.EventTypeWarning, reason, "Publish", format, args...)
}

// write creates, updates or deletes the ConfigMap; have is empty if there is none. It fails with a
// conflict where that is old.
func (c *ConfigMaps) write(ctx context.Context, namespace string, have *corev1.ConfigMap, data map[string]string) error {
	there := have.UID != ""
	var err error
	switch {
	case there && len(data) == 0:
		err = client.IgnoreNotFound(c.cfg.Client.Delete(ctx, have, client.Preconditions{UID: &have.UID, ResourceVersion: &have.ResourceVersion}))
	case len(data) == 0 || there && maps.Equal(have.Data, data) && len(have.BinaryData) == 0:
		return nil
	case there:
		have = have.DeepCopy()
		have.Data, have.BinaryData = data, nil
		err = c.cfg.Client.Update(ctx, have, fieldOwner)
	default:
		err = c.cfg.Client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace,
				Name:      injector.FederationConfigMap,
				Labels:    map[string]string{managedBy: manager},
				Annotations: map[string]string{"kubernetes.io/description": "Addresses and certificate authorities of the clusters that Pods of this namespace " +
					"act on with tokens of this one. Keyferry undoes changes of this ConfigMap."},
			},
			Data: data,
		}, fieldOwner)
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keeping ConfigMap %s/%s: %w", namespace, injector.FederationConfigMap, err)
	}
	ctrl.LoggerFrom(ctx).Info("federation ConfigMap written", "namespace", namespace, "keys", len(data))
	return nil
}
