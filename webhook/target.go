package webhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/subjecttoken"
	"github.com/keyferry/keyferry/internal/use"
)

// target returns the clusters that a Pod requests, for the injector, and warnings for the user. An
// error that is a denial tells the user why the ServiceAccount cannot use them.
func (h *Handler) target(ctx context.Context, r requester, requested injector.Annotations) (target injector.Target, warnings []string, err error) {
	switch {
	case requested.CredentialRequest:
		target, warnings, err = h.requestTarget(ctx, r, requested.Cluster)
	case requested.ClusterProfile:
		target, err = h.profileTarget(ctx, r, requested.Cluster)
	case requested.Cluster.Name != "":
		target, warnings, err = h.targetCluster(ctx, clusterRequest{r, injector.AnnotationCluster}, requested.Cluster)
	}
	if err != nil {
		return injector.Target{}, nil, err
	}
	for _, name := range requested.Clusters {
		further, warned, err := h.targetCluster(ctx, clusterRequest{r, injector.AnnotationClusters}, name)
		if err != nil {
			return injector.Target{}, nil, err
		}
		target.Further, warnings = append(target.Further, further), append(warnings, warned...)
	}
	return target, warnings, nil
}

// clusterRequest is a Pod that requests a cluster, and the annotation with the request.
type clusterRequest struct {
	requester
	annotation string
}

func (h *Handler) targetCluster(ctx context.Context, a clusterRequest, name types.NamespacedName) (injector.Target, []string, error) {
	if err := h.checkUse(ctx, a.annotation, a.requester, use.TargetCluster(name)); err != nil {
		return injector.Target{}, nil, err
	}
	// The cache may lag: it may lack the object or its current status. So a denial is decided again
	// with the object from the API server.
	var found v1alpha1.TargetCluster
	if err := h.Cached.Get(ctx, name, &found); err == nil {
		if target, warnings, err := h.targetFor(ctx, a, &found); err == nil {
			return target, warnings, nil
		}
	}
	found = v1alpha1.TargetCluster{}
	switch err := h.Live.Get(ctx, name, &found); {
	case apierrors.IsNotFound(err):
		return injector.Target{}, nil, invalid("NotFound", "annotation %s: there is no TargetCluster %s: create it, or correct the annotation (kubectl get targetclusters -n %s lists them)",
			a.annotation, name, name.Namespace)
	case err != nil:
		return injector.Target{}, nil, fmt.Errorf("reading TargetCluster %s: %w", name, err)
	}
	return h.targetFor(ctx, a, &found)
}

// targetFor returns the target for a TargetCluster that the ServiceAccount may use, with its
// plugin. It denies TargetClusters that cannot be used now.
func (h *Handler) targetFor(ctx context.Context, a clusterRequest, tc *v1alpha1.TargetCluster) (injector.Target, []string, error) {
	target, warnings, err := TargetFromStatus(tc, a.annotation == injector.AnnotationClusters)
	if denied, ok := errors.AsType[*denial](err); ok {
		denied.message = "annotation " + a.annotation + ": " + denied.message
	}
	if err != nil {
		return injector.Target{}, nil, err
	}
	for i := range warnings {
		warnings[i] = "annotation " + a.annotation + ": " + warnings[i]
	}
	if err := h.checkUseOfProfile(ctx, a.annotation, a.requester, tc); err != nil {
		return injector.Target{}, nil, err
	}
	if target.Plugin, err = h.targetPlugin(ctx, a.annotation, tc); err != nil {
		return injector.Target{}, nil, err
	}
	return target, warnings, nil
}

// TargetFromStatus returns the target for a TargetCluster according to its status, with warnings.
// further is set for a cluster beside the first one of a Pod. An error names the TargetCluster and
// the fix.
func TargetFromStatus(tc *v1alpha1.TargetCluster, further bool) (injector.Target, []string, error) {
	var (
		name      = types.NamespacedName{Namespace: tc.Namespace, Name: tc.Name}
		resolved  = meta.FindStatusCondition(tc.Status.Conditions, v1alpha1.ConditionResolved)
		reachable = meta.FindStatusCondition(tc.Status.Conditions, v1alpha1.ConditionReachable)
	)
	switch {
	case resolved == nil || tc.Status.ObservedGeneration < tc.Generation || resolved.Status == metav1.ConditionUnknown:
		return injector.Target{}, nil, invalid("NotObserved", "TargetCluster %s is not resolved yet: try again in a few seconds; "+
			"if the error persists, see the log of keyferry-controller", name)
	case resolved.Status != metav1.ConditionTrue:
		return injector.Target{}, nil, invalid("NotResolved", "TargetCluster %s is not resolved: %s: %s", name, resolved.Reason, resolved.Message)
	}
	// A token for another audience would be valid elsewhere, such as at this cluster's API server.
	if got, want := tc.Status.SubjectTokenAudience, subjecttoken.Audience(tc.Spec.Access); got != want {
		return injector.Target{}, nil, invalid("UnexpectedAudience", "TargetCluster %s: status.subjectTokenAudience is %q, but spec.access needs %q: "+
			"try again in a minute, when the controller has corrected the status; if the error persists, check which other client writes the status", name, got, want)
	}
	var warnings []string
	if resolved.Reason == v1alpha1.ReasonResolvedWithWarning {
		warnings = append(warnings, fmt.Sprintf("TargetCluster %s: %s", name, resolved.Message))
	}
	if reachable != nil && reachable.Status == metav1.ConditionFalse {
		until := "the Pod's containers start when it answers"
		if further {
			until = "requests in its context fail until it answers"
		}
		warnings = append(warnings, fmt.Sprintf("TargetCluster %s does not answer now; %s: %s", name, until, reachable.Message))
	}
	target := injector.Target{
		Endpoint:        tc.Status.Endpoint,
		Delivery:        string(tc.Status.Delivery),
		DeliveryReason:  tc.Status.DeliveryReason,
		SubjectAudience: tc.Status.SubjectTokenAudience,
		Namespace:       cmp.Or(tc.Spec.DefaultNamespace, metav1.NamespaceDefault),
	}
	if f := tc.Spec.Issue.Federation; f != nil {
		target.Federation = injector.Federation{Audience: f.Audience, Duration: f.Duration}
	}
	return target, warnings, nil
}

// Strip removes from a TargetCluster what this package does not read; it is the transform of its
// cache.
func Strip(object any) (any, error) {
	tc, ok := object.(*v1alpha1.TargetCluster)
	if !ok {
		return object, nil
	}
	return &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: tc.Namespace, Name: tc.Name, UID: tc.UID, ResourceVersion: tc.ResourceVersion, Generation: tc.Generation,
		},
		Spec: v1alpha1.TargetClusterSpec{
			ClusterProfile:   tc.Spec.ClusterProfile,
			DefaultNamespace: tc.Spec.DefaultNamespace,
			Access: v1alpha1.Access{
				Exec: tc.Spec.Access.Exec, EKS: tc.Spec.Access.EKS, GKE: tc.Spec.Access.GKE, AKS: tc.Spec.Access.AKS,
			},
			Issue: v1alpha1.Issue{Federation: tc.Spec.Issue.Federation},
		},
		Status: tc.Status,
	}, nil
}
