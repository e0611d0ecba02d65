// Package check reports whether a Pod gets its credential, and if not, why and how to fix it.
package check

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/exec"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/use"
)

// examination walks the chain from a Pod's annotation to its credential.
type examination struct {
	client client.Client
	exec   Exec
	pod    types.NamespacedName
	report Report

	// audiences are those of the tokens that the providers of TargetClusters exchange, as far as their
	// status says, by TargetCluster.
	audiences map[string]string
}

// Pod walks the chain. The client's scheme must know Kubernetes' types and ours.
func Pod(ctx context.Context, c client.Client, run Exec, pod types.NamespacedName) Report {
	x := examination{client: c, exec: run, pod: pod, audiences: map[string]string{}, report: Report{Pod: pod.String()}}
	x.walk(ctx)
	x.report.Result = x.report.sum()
	return x.report
}

// walk ends where the rest of the chain has nothing to hang on.
func (x *examination) walk(ctx context.Context) {
	pod := &corev1.Pod{}
	if err := x.client.Get(ctx, x.pod, pod); apierrors.IsNotFound(err) {
		x.report.wrong("pod", "if its workload cannot create it, the reason is in the Events: kubectl get events -n "+x.pod.Namespace+" --field-selector reason=FailedCreate",
			"there is no Pod %s in namespace %s", x.pod.Name, x.pod.Namespace)
		return
	} else if err != nil {
		x.report.unknown("pod", "", "cannot read it: %v", err)
		return
	}
	want, ok := x.annotation(ctx, pod)
	if !ok {
		return
	}
	switch {
	case want.CredentialRequest:
		x.report.CredentialRequest = want.Cluster.Name
		x.request(ctx, pod, want.Cluster)
	case want.ClusterProfile:
		x.report.ClusterProfile = want.Cluster.String()
		x.clusterProfile(ctx, want.Cluster)
		x.permission(ctx, pod, use.ClusterProfile(want.Cluster))
	case want.Cluster.Name != "":
		x.report.TargetCluster = want.Cluster.String()
		x.usable(ctx, pod, want.Cluster)
	}
	for _, further := range want.Clusters {
		x.report.Clusters = append(x.report.Clusters, further.String())
		x.usable(ctx, pod, further)
	}
	status, ok := x.injected(ctx, pod)
	switch {
	case !ok:
	case want.CredentialRequest: // all there is has been looked at
	case status.Federated():
		x.published(ctx, pod, want.Cluster)
	case x.sidecar(pod):
		x.credentials(ctx, want)
	}
}

// usable looks at a TargetCluster, and whether the Pod may use it.
func (x *examination) usable(ctx context.Context, pod *corev1.Pod, name types.NamespacedName) {
	cluster := x.targetCluster(ctx, name)
	x.permission(ctx, pod, use.TargetCluster(name))
	if ref := cluster.Spec.ClusterProfile; ref != nil {
		x.permission(ctx, pod, use.ClusterProfile(types.NamespacedName(*ref)))
	}
}

func (x *examination) annotation(ctx context.Context, pod *corev1.Pod) (injector.Annotations, bool) {
	const check = "annotation"
	want, err := injector.ParseAnnotations(pod.Annotations, pod.Namespace)
	if err != nil {
		x.report.wrong(check, "correct it in the Pod template, and recreate the Pods", "%v", err)
		return want, false
	}
	if want.Cluster.Name != "" {
		x.report.fine(check, "%s is %s", want.ClusterAnnotation(), want.Cluster)
		return want, true
	}
	if !want.Empty() {
		x.report.fine(check, "%s is %s; in-cluster stays this cluster", injector.AnnotationClusters, pod.Annotations[injector.AnnotationClusters])
		return want, true
	}
	if owner, err := x.annotatedOwner(ctx, pod); err != nil {
		x.report.unknown(check, "", "the Pod has no %s, and its owner cannot be read: %v", injector.AnnotationCluster, err)
	} else if owner != "" {
		x.report.wrong(check, "move it to spec.template.metadata.annotations (of a CronJob: spec.jobTemplate.spec.template.metadata.annotations)",
			"%s, where it has no effect", owner)
	} else {
		x.report.wrong(check, "set "+injector.AnnotationCluster+": NAMESPACE/NAME in the Pod template, spec.template.metadata.annotations",
			"the Pod has no %s: it is on this cluster", injector.AnnotationCluster)
	}
	return want, false
}

// annotatedOwner goes up from the Pod to its ReplicaSet, its Deployment and so on, and says which
// one has an annotation for a cluster on its own metadata.
func (x *examination) annotatedOwner(ctx context.Context, pod *corev1.Pod) (string, error) {
	const highest = 5 // more than anything has that is made of Pods
	var object metav1.Object = pod
	for range highest {
		ref := metav1.GetControllerOf(object)
		if ref == nil {
			return "", nil
		}
		owner := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: ref.APIVersion, Kind: ref.Kind}}
		if err := x.client.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: ref.Name}, owner); err != nil {
			return "", fmt.Errorf("%s %s: %w", ref.Kind, ref.Name, err)
		}
		if want, err := injector.ParseAnnotations(owner.Annotations, pod.Namespace); err == nil && !want.Empty() {
			return want.ClusterAnnotation() + " is on the metadata of " + ref.Kind + " " + ref.Name, nil
		}
		object = owner
	}
	return "", nil
}

// clusterProfile only looks whether it is there: its cluster manager says elsewhere how it is.
func (x *examination) clusterProfile(ctx context.Context, name types.NamespacedName) {
	const check = "profile"
	profile := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: inventory.GroupVersion.String(), Kind: inventory.ClusterProfileKind}}
	switch err := x.client.Get(ctx, name, profile); {
	case meta.IsNoMatchError(err):
		x.report.wrong(check, "install the CustomResourceDefinition clusterprofiles."+inventory.Group, "this cluster has no ClusterProfiles")
	case apierrors.IsNotFound(err):
		x.report.wrong(check, "create it, or use another name: kubectl get clusterprofiles -n "+name.Namespace,
			"there is no ClusterProfile %s in namespace %s", name.Name, name.Namespace)
	case err != nil:
		x.report.unknown(check, "", "cannot read ClusterProfile %s: %v", name, err)
	default:
		x.report.fine(check, "%s exists", name)
	}
}

// targetCluster returns the TargetCluster, as far as it could be read.
func (x *examination) targetCluster(ctx context.Context, name types.NamespacedName) *v1alpha1.TargetCluster {
	const check = "target cluster"
	cluster := &v1alpha1.TargetCluster{}
	err := x.client.Get(ctx, name, cluster)
	switch {
	case meta.IsNoMatchError(err):
		x.report.wrong(check, "install Keyferry's Helm chart", "this cluster does not have the resource TargetCluster: Keyferry is not installed")
		return cluster
	case apierrors.IsNotFound(err):
		x.report.wrong(check, "create it, or use another name: kubectl get targetclusters -n "+name.Namespace,
			"there is no TargetCluster %s in namespace %s", name.Name, name.Namespace)
		return cluster
	case err != nil:
		x.report.unknown(check, "", "cannot read TargetCluster %s: %v", name, err)
		return cluster
	}
	x.report.fine(check, "%s exists", name)
	if audience := cluster.Status.SubjectTokenAudience; audience != "" {
		x.audiences[name.String()] = audience
	}
	if cluster.Status.ObservedGeneration != cluster.Generation {
		x.report.unknown("conditions", "wait a moment; if this message stays, look at the logs of Deployment keyferry-controller",
			"the controller has not reconciled the current spec yet")
		return cluster
	}
	for _, kind := range []string{v1alpha1.ConditionResolved, v1alpha1.ConditionReachable, v1alpha1.ConditionIssuing} {
		x.condition(cluster, kind)
	}
	return cluster
}

func (x *examination) condition(cluster *v1alpha1.TargetCluster, kind string) {
	check := strings.ToLower(kind)
	c := meta.FindStatusCondition(cluster.Status.Conditions, kind)
	switch {
	case c == nil:
		x.report.unknown(check, "look at the logs of Deployment keyferry-controller", "the TargetCluster has no condition %s", kind)
	case c.Status == metav1.ConditionTrue, kind == v1alpha1.ConditionIssuing && c.Status == metav1.ConditionUnknown:
		x.report.fine(check, "%s", c.Message)
	case c.Status == metav1.ConditionFalse:
		x.report.wrong(check, "", "%s: %s", c.Reason, c.Message)
	default:
		x.report.unknown(check, "", "%s: %s", c.Reason, c.Message)
	}
}

// permission checks that the Pod's ServiceAccount may use an object.
func (x *examination) permission(ctx context.Context, pod *corev1.Pod, object use.Object) {
	const check = "permission"
	account := types.NamespacedName{Namespace: pod.Namespace, Name: cmp.Or(pod.Spec.ServiceAccountName, "default")}
	switch may, err := use.Allowed(ctx, x.client, account, "", object); {
	case err != nil:
		x.report.unknown(check, "ask somebody who may: "+use.CheckCommand(account, object), "%v", err)
	case !may:
		x.report.wrong(check, use.GrantCommand(account, object), "%s", use.Finding(account, object))
	default:
		x.report.fine(check, "ServiceAccount %s may use %s", account, object)
	}
}

func (x *examination) injected(ctx context.Context, pod *corev1.Pod) (status injector.Status, ok bool) {
	const check = "injected"
	const recreate = "delete the Pod, so that its workload creates a new Pod: Pods are injected when they are created"
	recorded, ok := pod.Annotations[injector.AnnotationStatus]
	if !ok {
		x.notInjected(ctx, check, recreate)
		return status, false
	}
	if err := json.Unmarshal([]byte(recorded), &status); err != nil {
		x.report.wrong(check, recreate, "annotation %s is spoilt: %v", injector.AnnotationStatus, err)
		return status, false
	}
	if status.ClusterProfile != x.report.ClusterProfile || status.CredentialRequest != x.report.CredentialRequest || !slices.Equal(status.Clusters, x.asked()) {
		x.report.wrong(check, recreate, "the annotation has changed since the Pod was created for %s", joined(cmp.Or(status.ClusterProfile, status.CredentialRequest), strings.Join(status.Clusters, ", ")))
		return status, false
	}
	if lacking, err := lacking(pod); err != nil {
		x.report.wrong(check, recreate, "%v", err)
		return status, false
	} else if len(lacking) > 0 {
		x.report.wrong(check, recreate+"; if the new Pod lacks them, too, another webhook removes them", "the Pod lacks parts that Keyferry added: %s", strings.Join(lacking, "; "))
		return status, false
	}
	reason := ""
	if status.DeliveryReason != "" {
		reason = " (" + status.DeliveryReason + ")"
	}
	var exchanged strings.Builder
	for _, name := range slices.Sorted(maps.Keys(x.audiences)) {
		audience := x.audiences[name]
		if status.SubjectTokenAudiences[name] != audience {
			x.report.wrong(check, recreate, "the provider of TargetCluster %s exchanges a token of the Pod's own for the audience %s, and the Pod was made without one", name, audience)
			return status, false
		}
		fmt.Fprintf(&exchanged, ", its token for %s is exchanged for %s", audience, name)
	}
	x.report.fine(check, "%s, delivery %s%s%s", strings.Join(status.Containers, ", "), strings.ToLower(status.Delivery), reason, exchanged.String())
	return status, true
}

// asked returns the names of the TargetClusters that the Pod asks for.
func (x *examination) asked() []string {
	if x.report.TargetCluster == "" {
		return x.report.Clusters
	}
	return append([]string{x.report.TargetCluster}, x.report.Clusters...)
}

// lacking returns what the Pod has lost of what injection added.
func lacking(pod *corev1.Pod) ([]string, error) {
	raw, err := json.Marshal(pod)
	if err != nil {
		return nil, err
	}
	view, err := injector.DecodePod(raw)
	if err != nil {
		return nil, err
	}
	return injector.Lacking(view)
}

// notInjected says why a Pod was not.
func (x *examination) notInjected(ctx context.Context, check, recreate string) {
	err := x.client.Get(ctx, client.ObjectKey{Name: "keyferry-webhook"}, &admissionv1.MutatingWebhookConfiguration{})
	if apierrors.IsNotFound(err) {
		x.report.wrong(check, "install Keyferry's Helm chart, then "+recreate, "the Pod was not injected: there is no webhook keyferry-webhook in this cluster")
		return
	}
	x.report.wrong(check, recreate, "the Pod was not injected: it was created before it had the annotation, or before Keyferry and its policy keyferry-guard were installed; "+
		"the policy now denies new Pods that are not injected, as in Keyferry's own namespace and in those of webhook.excludedNamespaces")
}

// sidecar reports whether it makes sense to look for the credential.
func (x *examination) sidecar(pod *corev1.Pod) bool {
	const check = "sidecar"
	i := slices.IndexFunc(pod.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == injector.RefresherContainer })
	if i < 0 {
		why := string(pod.Status.Phase)
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status != corev1.ConditionTrue {
				why = c.Message
			}
		}
		x.report.unknown(check, "", "the sidecar has not been started yet: %s", why)
		return false
	}
	status := pod.Status.InitContainerStatuses[i]
	last := lastWords(status)
	switch state := status.State; {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		x.report.fine(check, "the Pod and its sidecar have ended")
		return false
	case state.Running != nil:
		if status.RestartCount > 0 && last != "" {
			last = fmt.Sprintf("; %d restarts, with this message before the last restart: %s", status.RestartCount, last)
		} else {
			last = ""
		}
		x.report.fine(check, "running since %s%s", state.Running.StartedAt.UTC().Format("2006-01-02 15:04:05 MST"), last)
		return true
	case state.Waiting != nil:
		x.report.wrong(check, "kubectl describe pod "+pod.Name+" -n "+pod.Namespace, "%s", joined(state.Waiting.Reason, state.Waiting.Message, last))
	default:
		x.report.wrong(check, "", "it has ended: %s", joined(last))
	}
	return false
}

// lastWords are what the sidecar left when it ended the last time.
func lastWords(s corev1.ContainerStatus) string {
	for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
		if t != nil {
			return joined(t.Message, fmt.Sprintf("exit code %d (%s)", t.ExitCode, t.Reason))
		}
	}
	return ""
}

func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return strings.TrimSpace(s) == "" }), ": ")
}

// credentials looks for the credential of each cluster.
func (x *examination) credentials(ctx context.Context, want injector.Annotations) {
	if want.Cluster.Name != "" {
		x.credential(ctx, "")
	}
	for _, further := range want.Clusters {
		dir := injector.ClusterDir(further)
		x.credential(ctx, further.String()+": ", "--credentials-dir="+dir, "--termination-log="+dir+"/problem")
	}
}

// credential has the sidecar look at its files: nothing else in it can.
func (x *examination) credential(ctx context.Context, of string, flags ...string) {
	const check = "credential"
	stderr, err := x.exec(ctx, x.pod, injector.RefresherContainer, append([]string{"/refresher", "wait", "--timeout=1s"}, flags...)...)
	var code exec.CodeExitError
	switch {
	case err == nil:
		x.report.fine(check, "%sthe files exist, and the credential has not expired", of)
	case errors.As(err, &code):
		x.report.wrong(check, fmt.Sprintf("kubectl logs %s -n %s -c %s", x.pod.Name, x.pod.Namespace, injector.RefresherContainer), "%s%s", of, strings.TrimPrefix(stderr, "refresher: "))
	case apierrors.IsForbidden(err):
		x.report.unknown(check, "ask a user with the verbs create and get on pods/exec", "cannot read the sidecar's files: %v", err)
	default:
		x.report.unknown(check, "", "cannot read the sidecar's files: %v", err)
	}
}
