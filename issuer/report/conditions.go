package report

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
)

const (
	// maxTargets bounds the memory. A target that does not fit is reported with its next request.
	maxTargets = 4096
	// maxConditionMessage is what the CRD allows.
	maxConditionMessage = 32768
	// writeTimeout bounds one write.
	writeTimeout = 5 * time.Second
)

// conditions writes the condition Issuing of TargetClusters. Only the last result of a target
// counts. It is written at most once an interval, and only if it changes the condition.
type conditions struct {
	cfg Config

	mu      sync.Mutex
	pending map[types.NamespacedName]metav1.Condition
}

func (c *conditions) observe(event issuer.Event) {
	if event.Err != nil {
		object := []any{"targetCluster", event.TargetCluster.String()}
		if event.TargetCluster.Name == "" {
			object = []any{"clusterProfile", event.ClusterProfile.String()}
		}
		c.cfg.Log.Info("provider gave no credential", append(object, "namespace", event.Identity.Namespace, "serviceAccount", event.Identity.ServiceAccount,
			"latency", event.Took.String(), "kept", event.Kept, "error", event.Err.Error())...)
	}
	// A ClusterProfile has no such condition. A ServiceAccount that is missing in the target affects
	// its own Pods, which receive the error, and no others.
	if event.TargetCluster.Name != "" && !event.OneAccount {
		c.enqueue(event.TargetCluster, conditionFor(event.Err), true)
	}
}

// enqueue keeps a condition to be written. It replaces an earlier one only if newer is set.
func (c *conditions) enqueue(target types.NamespacedName, condition metav1.Condition, newer bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, exists := c.pending[target]; exists && !newer || !exists && len(c.pending) >= maxTargets {
		return
	}
	c.pending[target] = condition
}

// run writes until ctx ends.
func (c *conditions) run(ctx context.Context) {
	ticker := time.NewTicker(c.cfg.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.flush(ctx)
		}
	}
}

// flush writes all pending conditions. It tries again later if it could not write one.
func (c *conditions) flush(ctx context.Context) {
	c.mu.Lock()
	pending := c.pending
	c.pending = make(map[types.NamespacedName]metav1.Condition, len(pending))
	c.mu.Unlock()

	for target, condition := range pending {
		err := c.write(ctx, target, condition)
		switch {
		case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err), ctx.Err() != nil:
			// The TargetCluster was deleted, or replaced by another one.
		default:
			c.cfg.Log.Error(err, "cannot write condition Issuing", "targetCluster", target.String())
			c.enqueue(target, condition, false)
		}
	}
}

func (c *conditions) write(ctx context.Context, target types.NamespacedName, condition metav1.Condition) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	var cluster v1alpha1.TargetCluster
	if err := c.cfg.Client.Get(ctx, target, &cluster); err != nil {
		return fmt.Errorf("reading TargetCluster %s: %w", target, err)
	}
	condition.ObservedGeneration = cluster.Generation
	condition.LastTransitionTime = metav1.NewTime(c.cfg.Now())
	conditions := append([]metav1.Condition(nil), cluster.Status.Conditions...)
	if !meta.SetStatusCondition(&conditions, condition) {
		return nil
	}
	applied, err := applyConfiguration(&cluster, *meta.FindStatusCondition(conditions, condition.Type))
	if err != nil {
		return err
	}
	if err := c.cfg.Client.Status().Apply(ctx, applied, client.FieldOwner(c.cfg.FieldManager), client.ForceOwnership); err != nil {
		return fmt.Errorf("applying the status of TargetCluster %s: %w", target, err)
	}
	return nil
}

// applyConfiguration holds that condition alone.
func applyConfiguration(cluster *v1alpha1.TargetCluster, condition metav1.Condition) (runtime.ApplyConfiguration, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&condition)
	if err != nil {
		return nil, fmt.Errorf("encoding condition %s: %w", condition.Type, err)
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"status": map[string]any{"conditions": []any{fields}},
	}}
	object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("TargetCluster"))
	object.SetNamespace(cluster.Namespace)
	object.SetName(cluster.Name)
	return client.ApplyConfigurationFromUnstructured(object), nil
}

// conditionFor returns the condition after a request. Its message is that of the error.
func conditionFor(err error) metav1.Condition {
	if err == nil {
		return metav1.Condition{
			Type: v1alpha1.ConditionIssuing, Status: metav1.ConditionTrue, Reason: "Issued", Message: "The last requested credential was issued.",
		}
	}
	condition := metav1.Condition{
		Type: v1alpha1.ConditionIssuing, Status: metav1.ConditionFalse, Reason: issuer.FailureOf(err).Reason, Message: err.Error(),
	}
	if len(condition.Message) > maxConditionMessage {
		condition.Message = strings.ToValidUTF8(condition.Message[:maxConditionMessage], "")
	}
	return condition
}
