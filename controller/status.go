package controller

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/events"
)

// Reasons of conditions, besides those that the issuer gives when a TargetCluster does not resolve.
const (
	reasonResolved    = "Resolved"
	reasonNotResolved = "NotResolved"
	reasonReady       = "Ready"
	reasonNotUsed     = "NotUsed"
)

// finding is one condition's worth of an observation.
type finding struct {
	status  metav1.ConditionStatus
	reason  string
	message string
}

// observation is what one look at a target brought. What is not known is zero.
type observation struct {
	resolved  finding
	reachable finding

	endpoint       string
	delivery       v1alpha1.Delivery
	deliveryReason string
	// subjectAudience is that of the token that a Pod needs for the provider.
	subjectAudience string

	// answered says that serverVersion and clusterUID are the target's word; else it has not been
	// heard.
	answered      bool
	serverVersion string
	clusterUID    types.UID
}

// nextStatus is the status of a TargetCluster after an observation. What this observation could not
// see stays as it was seen last: only so does it show when the target has become another one. The
// condition Issuing is somebody else's; it is only read.
func nextStatus(cluster *v1alpha1.TargetCluster, seen observation, now time.Time) v1alpha1.TargetClusterStatus {
	status := *cluster.Status.DeepCopy()
	status.ObservedGeneration = cluster.Generation
	if seen.resolved.status == metav1.ConditionTrue {
		status.Endpoint, status.Delivery, status.DeliveryReason = seen.endpoint, seen.delivery, seen.deliveryReason
		status.SubjectTokenAudience = seen.subjectAudience
	}
	if seen.answered {
		status.ServerVersion, status.ClusterUID = seen.serverVersion, seen.clusterUID
	}
	for _, c := range []struct {
		kind string
		finding
	}{
		{v1alpha1.ConditionResolved, seen.resolved},
		{v1alpha1.ConditionReachable, seen.reachable},
		{v1alpha1.ConditionReady, sum(cluster, seen, issuing(cluster))},
	} {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type:               c.kind,
			Status:             c.status,
			Reason:             c.reason,
			Message:            events.Limit(c.message),
			ObservedGeneration: cluster.Generation,
			LastTransitionTime: metav1.NewTime(now),
		})
	}
	return status
}

// issuing is what the condition says about the present spec: a failure under an earlier one says
// nothing.
func issuing(cluster *v1alpha1.TargetCluster) finding {
	c := meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionIssuing)
	if c == nil || c.Status == metav1.ConditionUnknown || c.ObservedGeneration < cluster.Generation {
		return finding{status: metav1.ConditionUnknown}
	}
	return finding{c.Status, c.Reason, c.Message}
}

// sum is the condition Ready.
func sum(cluster *v1alpha1.TargetCluster, seen observation, issuing finding) finding {
	for _, f := range []finding{seen.resolved, seen.reachable, issuing} {
		if f.status == metav1.ConditionFalse {
			return f
		}
	}
	for _, f := range []finding{seen.resolved, seen.reachable} {
		if f.status != metav1.ConditionTrue {
			return f
		}
	}
	if federated(cluster) {
		return finding{metav1.ConditionTrue, reasonReady, "the target answers; only Pods can check whether it accepts their tokens"}
	}
	return finding{metav1.ConditionTrue, reasonReady, "credentials can be issued"}
}

// note is an Event to be.
type note struct {
	kind, reason, action, text string
}

// news are the Events of a change from one status to the next.
func news(cluster *v1alpha1.TargetCluster, after v1alpha1.TargetClusterStatus) []note {
	var notes []note
	before := cluster.Status
	if a, b := before.ClusterUID, after.ClusterUID; a != "" && b != "" && a != b {
		notes = append(notes, note{corev1.EventTypeWarning, v1alpha1.EventClusterReplaced, "Probe", fmt.Sprintf(
			"Another cluster answers at this endpoint: the UID of the namespace kube-system was %s and is now %s. Pods that use the TargetCluster are restarted", a, b)})
	}
	if a, b := before.Endpoint, after.Endpoint; a != "" && a != b {
		follow := "Pods follow as soon as it answers, except those with literal environment variables " +
			"(on-endpoint-change: ignore, or nodes that cannot restart containers in place): these Pods keep the old endpoint until they are recreated"
		if federated(cluster) {
			follow = "Federated Pods have no sidecar that restarts them: their containers use the new endpoint after their next start"
		}
		notes = append(notes, note{corev1.EventTypeNormal, v1alpha1.EventEndpointMoved, "Resolve", fmt.Sprintf("The endpoint changed from %s to %s. %s", a, b, follow)})
	}
	said := meta.FindStatusCondition(before.Conditions, v1alpha1.ConditionResolved)
	says := meta.FindStatusCondition(after.Conditions, v1alpha1.ConditionResolved)
	if says.Reason == v1alpha1.ReasonResolvedWithWarning && (said == nil || said.Message != says.Message) {
		notes = append(notes, note{corev1.EventTypeWarning, says.Reason, "Resolve", says.Message})
	}
	was := meta.FindStatusCondition(before.Conditions, v1alpha1.ConditionReady)
	is := meta.FindStatusCondition(after.Conditions, v1alpha1.ConditionReady)
	switch {
	case is.Status == metav1.ConditionFalse && (was == nil || was.Status != metav1.ConditionFalse):
		notes = append(notes, note{corev1.EventTypeWarning, is.Reason, "Probe", is.Message})
	case is.Status == metav1.ConditionTrue && was != nil && was.Status == metav1.ConditionFalse:
		notes = append(notes, note{corev1.EventTypeNormal, v1alpha1.EventRecovered, "Probe", "The target is ready again"})
	}
	return notes
}
