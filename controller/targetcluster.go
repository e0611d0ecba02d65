// Package controller keeps the status of TargetClusters.
//
// It looks at every target when its spec changes and about once a minute, because the Secrets
// behind it cannot be watched with the right to get them only. What the status becomes is decided
// by pure functions of the last status and what was seen; nothing is written, and no Event sent,
// while nothing changes.
package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer/resolve"
)

// Field managers of the status.
const (
	fieldOwner = client.FieldOwner("keyferry-controller")
	// IssuingFieldManager writes the condition Issuing, and nothing else: the controller's own
	// requests, for CredentialRequests, and the condition before the first request. The broker writes
	// the same condition under its name.
	IssuingFieldManager = "keyferry-controller-issuing"
)

// How long until the next look at a target: a minute, and while it is broken first shorter, then
// longer.
const (
	resync       = time.Minute
	firstBackoff = 5 * time.Second
	lastBackoff  = 2 * time.Minute
)

// TargetClustersConfig is what TargetClusters needs.
type TargetClustersConfig struct {
	// Client reads TargetClusters, from a cache, and writes their status.
	Client   client.Client
	Resolver Resolver
	// Egress says which addresses may be looked at.
	Egress  endpoint.Policy
	Events  events.EventRecorder
	Metrics prometheus.Registerer

	// Concurrency is how many targets are looked at at the same time; Timeout the longest that one may
	// take.
	Concurrency int
	Timeout     time.Duration

	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Jitter varies the time until the next look; nil adds up to a fifth.
	Jitter func(time.Duration) time.Duration
}

// TargetClusters reconciles the status of TargetClusters.
type TargetClusters struct {
	cfg     TargetClustersConfig
	backoff workqueue.TypedRateLimiter[reconcile.Request]
	ready   *prometheus.GaugeVec
}

// New returns TargetClusters, or an error that says what cfg lacks.
func New(cfg TargetClustersConfig) (*TargetClusters, error) {
	switch {
	case cfg.Client == nil || cfg.Resolver == nil || cfg.Events == nil || cfg.Metrics == nil:
		return nil, errors.New("controller: Client, Resolver, Events and Metrics are required")
	case cfg.Concurrency < 1:
		return nil, errors.New("controller: Concurrency must be at least 1")
	case cfg.Timeout <= 0:
		return nil, errors.New("controller: Timeout must be positive")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Jitter == nil {
		cfg.Jitter = func(d time.Duration) time.Duration { return wait.Jitter(d, 0.2) }
	}
	t := &TargetClusters{
		cfg:     cfg,
		backoff: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstBackoff, lastBackoff),
		ready: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keyferry_targetcluster_ready",
			Help: "1 if the TargetCluster's condition Ready is True, else 0.",
		}, []string{"target"}),
	}
	return t, cfg.Metrics.Register(t.ready)
}

// SetupWithManager makes t watch TargetClusters: their spec, and the condition that the broker
// writes.
func (t *TargetClusters) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("targetcluster").
		For(&v1alpha1.TargetCluster{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, issuingChanged()))).
		WithOptions(ctrlcontroller.Options{
			MaxConcurrentReconciles: t.cfg.Concurrency,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, lastBackoff),
		}).
		Complete(t)
}

func issuingChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*v1alpha1.TargetCluster)
		after, ok2 := e.ObjectNew.(*v1alpha1.TargetCluster)
		return ok && ok2 && issuing(before) != issuing(after)
	}}
}

// Reconcile looks at one target and writes what has changed.
func (t *TargetClusters) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	cluster := &v1alpha1.TargetCluster{}
	err := t.cfg.Client.Get(ctx, req.NamespacedName, cluster)
	if apierrors.IsNotFound(err) || err == nil && !cluster.DeletionTimestamp.IsZero() {
		t.backoff.Forget(req)
		t.ready.DeleteLabelValues(req.String())
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}

	looking, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	seen, err := observe(looking, t.cfg.Resolver, t.cfg.Egress, cluster, t.cfg.Now())
	if err != nil {
		return reconcile.Result{}, err
	}
	if seen, err = t.checkAudience(ctx, cluster, seen); err != nil {
		return reconcile.Result{}, err
	}
	after := nextStatus(cluster, seen, t.cfg.Now())
	if err := t.write(ctx, cluster, after); apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: time.Second}, nil // somebody wrote meanwhile, and the cache will know soon
	} else if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	t.tell(ctx, cluster, after)
	return reconcile.Result{RequeueAfter: t.cfg.Jitter(t.wait(req, cluster, after))}, nil
}

// wait is the time until the next look. A changed spec starts again: its user is waiting.
func (t *TargetClusters) wait(req reconcile.Request, cluster *v1alpha1.TargetCluster, after v1alpha1.TargetClusterStatus) time.Duration {
	if cluster.Status.ObservedGeneration != cluster.Generation {
		t.backoff.Forget(req)
	}
	if meta.IsStatusConditionTrue(after.Conditions, v1alpha1.ConditionResolved) && meta.IsStatusConditionTrue(after.Conditions, v1alpha1.ConditionReachable) {
		t.backoff.Forget(req)
		return resync
	}
	return t.backoff.When(req)
}

func (t *TargetClusters) tell(ctx context.Context, cluster *v1alpha1.TargetCluster, after v1alpha1.TargetClusterStatus) {
	value := 0.0
	if meta.IsStatusConditionTrue(after.Conditions, v1alpha1.ConditionReady) {
		value = 1
	}
	t.ready.WithLabelValues(client.ObjectKeyFromObject(cluster).String()).Set(value)
	for _, n := range news(cluster, after) {
		log.FromContext(ctx).Info("target changed", "reason", n.reason, "message", n.text)
		t.cfg.Events.Eventf(cluster, nil, n.kind, n.reason, n.action, "%s", n.text)
	}
}

// write applies the status if it changed, to the very version that it was made from: neither to a
// later spec, nor to a namesake made since.
func (t *TargetClusters) write(ctx context.Context, cluster *v1alpha1.TargetCluster, after v1alpha1.TargetClusterStatus) error {
	if !equality.Semantic.DeepEqual(cluster.Status, after) {
		if err := t.apply(ctx, cluster, cluster.ResourceVersion, own(after), fieldOwner, client.ForceOwnership); err != nil {
			return fmt.Errorf("writing the status: %w", err)
		}
	}
	return t.writeIssuing(ctx, cluster)
}

// writeIssuing writes the condition Issuing where the broker does not: before it has issued
// anything, and for a federated target, where it never does.
func (t *TargetClusters) writeIssuing(ctx context.Context, cluster *v1alpha1.TargetCluster) error {
	condition := metav1.Condition{
		Type:               v1alpha1.ConditionIssuing,
		Status:             metav1.ConditionUnknown,
		Reason:             reasonNotUsed,
		Message:            "no credential has been asked for yet",
		ObservedGeneration: cluster.Generation,
		LastTransitionTime: metav1.NewTime(t.cfg.Now()),
	}
	if federated(cluster) {
		condition.Status, condition.Reason = metav1.ConditionTrue, resolve.ReasonFederated
		condition.Message = "Keyferry issues no credential: Pods present tokens of this cluster to the target"
	}
	there := meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionIssuing)
	var opts []client.SubResourceApplyOption
	switch {
	case there == nil:
	case there.Reason == condition.Reason && there.ObservedGeneration == cluster.Generation:
		return nil
	case federated(cluster) || there.Reason == resolve.ReasonFederated:
		opts = append(opts, client.ForceOwnership) // what the broker wrote, or is there, is of another issue type
	default:
		return nil
	}
	err := t.apply(ctx, cluster, "", v1alpha1.TargetClusterStatus{Conditions: []metav1.Condition{condition}}, append(opts, client.FieldOwner(IssuingFieldManager))...)
	if apierrors.IsConflict(err) {
		return nil // the broker was faster, and it is right
	}
	return err
}

// own is the status without what the broker writes.
func own(status v1alpha1.TargetClusterStatus) v1alpha1.TargetClusterStatus {
	status = *status.DeepCopy()
	meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionIssuing)
	return status
}

// apply fails with a conflict where the object has another version than the given one; empty is
// any.
func (t *TargetClusters) apply(ctx context.Context, cluster *v1alpha1.TargetCluster, version string, status v1alpha1.TargetClusterStatus, opts ...client.SubResourceApplyOption) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": fields}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("TargetCluster"))
	u.SetNamespace(cluster.Namespace)
	u.SetName(cluster.Name)
	u.SetResourceVersion(version)
	return t.cfg.Client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), opts...)
}
