// Package issuing writes how issuing went to the condition Issuing of each TargetCluster.
package issuing

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
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
	// fieldManager owns the condition Issuing, and nothing else, of each TargetCluster.
	fieldManager = "keyferry-broker"
	// maxNews bounds the memory for targets whose news has not been written. What does not fit comes again with
	// the next issue.
	maxNews = 4096
	// maxConditionMessage is what the CRD allows.
	maxConditionMessage = 32768
	// writeTimeout bounds one write.
	writeTimeout = 5 * time.Second
)

// Conditions writes how issuing went to the condition Issuing of each TargetCluster. Only the last news of a
// target counts, it is written at most once an interval, and only if it changes what is there.
type Conditions struct {
	client   client.Client
	interval time.Duration
	now      func() time.Time
	log      logr.Logger

	mu   sync.Mutex
	news map[types.NamespacedName]metav1.Condition
}

// New returns one that reads through c, which may be a cache, and writes with it.
func New(c client.Client, interval time.Duration, now func() time.Time, log logr.Logger) *Conditions {
	return &Conditions{
		client:   c,
		interval: interval,
		now:      now,
		log:      log,
		news:     make(map[types.NamespacedName]metav1.Condition),
	}
}

// Observe takes note of an event, for issuer.Config; it does not block.
func (c *Conditions) Observe(event issuer.Event) {
	if event.Err != nil {
		object := []any{"targetCluster", event.TargetCluster.String()}
		if event.TargetCluster.Name == "" {
			object = []any{"clusterProfile", event.ClusterProfile.String()}
		}
		c.log.Info("source gave no credential", append(object, "namespace", event.Identity.Namespace, "serviceAccount", event.Identity.ServiceAccount,
			"latency", event.Took.String(), "kept", event.Kept, "error", event.Err.Error())...)
	}
	// A ClusterProfile has no such condition; and what one account lacks, whose Pods are told, does not make the target bad for all.
	if event.TargetCluster.Name != "" && !event.OneAccount {
		c.note(event.TargetCluster, conditionFor(event.Err), true)
	}
}

// note keeps a condition to be written; an older one gives way only if newer is set.
func (c *Conditions) note(target types.NamespacedName, condition metav1.Condition, newer bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.news[target]; there && !newer || !there && len(c.news) >= maxNews {
		return
	}
	c.news[target] = condition
}

// NeedLeaderElection is false: each broker knows of its own issues.
func (c *Conditions) NeedLeaderElection() bool { return false }

// Start writes until ctx ends.
func (c *Conditions) Start(ctx context.Context) error {
	ticker := time.NewTicker(c.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			c.flush(ctx)
		}
	}
}

// flush writes all news; what could not be written is tried again with the next.
func (c *Conditions) flush(ctx context.Context) {
	c.mu.Lock()
	news := c.news
	c.news = make(map[types.NamespacedName]metav1.Condition, len(news))
	c.mu.Unlock()

	for target, condition := range news {
		err := c.write(ctx, target, condition)
		switch {
		case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err), ctx.Err() != nil:
			// A TargetCluster that is gone, or another one by now, does not want the news.
		default:
			c.log.Error(err, "cannot write condition Issuing", "targetCluster", target.String())
			c.note(target, condition, false)
		}
	}
}

func (c *Conditions) write(ctx context.Context, target types.NamespacedName, condition metav1.Condition) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	var cluster v1alpha1.TargetCluster
	if err := c.client.Get(ctx, target, &cluster); err != nil {
		return fmt.Errorf("reading TargetCluster %s: %w", target, err)
	}
	condition.ObservedGeneration = cluster.Generation
	condition.LastTransitionTime = metav1.NewTime(c.now())
	conditions := append([]metav1.Condition(nil), cluster.Status.Conditions...)
	if !meta.SetStatusCondition(&conditions, condition) {
		return nil
	}
	applied, err := applyConfiguration(&cluster, *meta.FindStatusCondition(conditions, condition.Type))
	if err != nil {
		return err
	}
	if err := c.client.Status().Apply(ctx, applied, client.FieldOwner(fieldManager), client.ForceOwnership); err != nil {
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

// conditionFor says how an issue went. Its message is the issuer's sentence.
func conditionFor(err error) metav1.Condition {
	if err == nil {
		return metav1.Condition{
			Type: v1alpha1.ConditionIssuing, Status: metav1.ConditionTrue, Reason: "Issued", Message: "The last credential that was asked for was issued.",
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
