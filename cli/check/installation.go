package check

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
)

const (
	// webhookConfiguration is the name of both webhook configurations.
	webhookConfiguration = "keyferry-webhook"
	guardPolicy          = "keyferry-guard"
	installFirst         = "install Keyferry: helm install keyferry oci://ghcr.io/keyferry/charts/keyferry -n keyferry-system --create-namespace"
)

// installation checks what the API server knows about an installation.
type installation struct {
	client client.Client
	// namespace has Keyferry, and pods is the namespace for a Pod that is not created.
	namespace, pods string
	report          Report
}

// Installation checks an installation from outside the cluster: it connects to the API server only.
// namespace is that of Keyferry; pods is where you may create Pods, for a dry run.
func Installation(ctx context.Context, c client.Client, namespace, pods string) Report {
	if pods == namespace { // which the webhook leaves out
		pods = metav1.NamespaceDefault
	}
	i := installation{client: c, namespace: namespace, pods: pods, report: Report{Subject: "Installation in namespace " + namespace}}
	i.checkResources(ctx)
	i.checkDeployments(ctx)
	i.checkTrust(ctx)
	i.checkGuard(ctx)
	i.checkAdmission(ctx, i.checkWebhooks(ctx))
	i.report.Result = i.report.sum()
	return i.report
}

// NotInstalled is the report about a cluster without Keyferry.
func NotInstalled() Report {
	r := Report{Subject: "Installation"}
	r.wrong("installation", installFirst+"; keyferry check --pre checks the cluster before", "the cluster has no MutatingWebhookConfiguration %s", webhookConfiguration)
	r.Result = r.sum()
	return r
}

// read reads an object, and reports whether that succeeded.
func (i *installation) read(ctx context.Context, check, kind string, name types.NamespacedName, object client.Object, remedy string) bool {
	err := i.client.Get(ctx, name, object)
	switch {
	case apierrors.IsNotFound(err):
		i.report.wrong(check, remedy, "there is no %s %s", kind, strings.TrimPrefix(name.String(), "/"))
	case err != nil:
		i.report.unknown(check, "", "cannot read %s %s: %v", kind, strings.TrimPrefix(name.String(), "/"), err)
	}
	return err == nil
}

func (i *installation) checkResources(ctx context.Context) {
	const check = "resources"
	for resource, list := range map[string]client.ObjectList{"TargetClusters": &v1alpha1.TargetClusterList{}, "CredentialRequests": &v1alpha1.CredentialRequestList{}} {
		switch err := i.client.List(ctx, list, client.InNamespace(i.namespace), client.Limit(1)); {
		case meta.IsNoMatchError(err) || apierrors.IsNotFound(err):
			i.report.wrong(check, "helm upgrade creates the CustomResourceDefinitions, unless crds.install is false", "the cluster does not know %s", resource)
			return
		case err != nil && !apierrors.IsForbidden(err): // who is refused has asked for something that exists
			i.report.unknown(check, "", "cannot list %s: %v", resource, err)
			return
		}
	}
	i.report.fine(check, "the cluster knows TargetClusters and CredentialRequests")
}

func (i *installation) checkDeployments(ctx context.Context) {
	for _, component := range []string{"broker", "controller", "webhook"} {
		d := &appsv1.Deployment{}
		name := types.NamespacedName{Namespace: i.namespace, Name: "keyferry-" + component}
		if !i.read(ctx, component, "Deployment", name, d, "helm upgrade creates it") {
			continue
		}
		wanted := int32(1)
		if d.Spec.Replicas != nil {
			wanted = *d.Spec.Replicas
		}
		look := fmt.Sprintf("kubectl describe pods -n %s -l app.kubernetes.io/component=%s; keyferry logs %s", i.namespace, component, component)
		switch {
		case d.Status.ReadyReplicas == 0:
			i.report.wrong(component, look, "none of its %d Pods is ready", wanted)
		case d.Status.ReadyReplicas < wanted || d.Status.UpdatedReplicas < wanted:
			i.report.unknown(component, look, "%d of %d Pods are ready, %d of the current version: it is being updated, or a Pod does not start", d.Status.ReadyReplicas, wanted, d.Status.UpdatedReplicas)
		default:
			i.report.fine(component, "%d of %d Pods are ready", d.Status.ReadyReplicas, wanted)
		}
	}
}

func (i *installation) checkTrust(ctx context.Context) {
	const check = "broker's CA"
	trust := &corev1.ConfigMap{}
	name := types.NamespacedName{Namespace: i.pods, Name: injector.TrustConfigMap}
	if !i.read(ctx, check, "ConfigMap", name, trust, "the controller creates it in each namespace: keyferry logs controller") {
		return
	}
	if !x509.NewCertPool().AppendCertsFromPEM([]byte(trust.Data["ca.crt"])) {
		i.report.wrong(check, "the controller restores it: keyferry logs controller", "ConfigMap %s has no certificate in ca.crt", name)
		return
	}
	i.report.fine(check, "ConfigMap %s has it", name)
}

func (i *installation) checkGuard(ctx context.Context) {
	const check = "guard"
	const without = "without it, Pods that the webhook does not receive start on the wrong cluster: helm upgrade creates it"
	name := types.NamespacedName{Name: guardPolicy}
	if !i.read(ctx, check, "ValidatingAdmissionPolicy", name, &admissionv1.ValidatingAdmissionPolicy{}, without) ||
		!i.read(ctx, check, "ValidatingAdmissionPolicyBinding", name, &admissionv1.ValidatingAdmissionPolicyBinding{}, without) {
		return
	}
	i.report.fine(check, "ValidatingAdmissionPolicy %s denies Pods that are not injected", guardPolicy)
}

// checkWebhooks returns the name of the webhook for Pods; empty if it cannot work.
func (i *installation) checkWebhooks(ctx context.Context) string {
	const check = "webhooks"
	name := types.NamespacedName{Name: webhookConfiguration}
	mutating, validating := &admissionv1.MutatingWebhookConfiguration{}, &admissionv1.ValidatingWebhookConfiguration{}
	if !i.read(ctx, check, "MutatingWebhookConfiguration", name, mutating, installFirst) ||
		!i.read(ctx, check, "ValidatingWebhookConfiguration", name, validating, installFirst) {
		return ""
	}
	clients := map[string]admissionv1.WebhookClientConfig{}
	for _, hook := range mutating.Webhooks {
		clients[hook.Name] = hook.ClientConfig
	}
	for _, hook := range validating.Webhooks {
		clients[hook.Name] = hook.ClientConfig
	}
	var bad []string
	for hook, config := range clients {
		if !x509.NewCertPool().AppendCertsFromPEM(config.CABundle) {
			bad = append(bad, hook)
		}
	}
	slices.Sort(bad)
	switch {
	case len(mutating.Webhooks) == 0:
		i.report.wrong(check, installFirst, "MutatingWebhookConfiguration %s is empty", webhookConfiguration)
		return ""
	case len(bad) > 0:
		i.report.wrong(check, "the controller writes it, or cert-manager's CA injector with certificates.mode cert-manager: keyferry logs controller",
			"these webhooks have no caBundle, so the API server does not trust them: %s", strings.Join(bad, ", "))
		return ""
	}
	i.report.fine(check, "%d webhooks have a caBundle", len(clients))
	return mutating.Webhooks[0].Name
}

// checkAdmission has the API server call the webhook: it must deny a Pod for a TargetCluster that
// does not exist. The Pod is not created.
func (i *installation) checkAdmission(ctx context.Context, hook string) {
	const check = "admission"
	if hook == "" {
		return
	}
	target := i.pods + "/keyferry-check-no-such-target"
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: i.pods, Name: "keyferry-check", Annotations: map[string]string{injector.AnnotationCluster: target}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "check", Image: "check"}}},
	}
	err := i.client.Create(ctx, pod, client.DryRunAll)
	called := `admission webhook "` + hook + `" denied the request`
	switch {
	case err == nil:
		i.report.wrong(check, "look at the rules and selectors of MutatingWebhookConfiguration "+webhookConfiguration+": helm upgrade restores them",
			"the API server created a Pod for TargetCluster %s, which does not exist, and did not call the webhook (dry run)", target)
	case strings.Contains(err.Error(), called):
		i.report.fine(check, "the API server calls the webhook, and the webhook answers (dry run)")
	case strings.Contains(err.Error(), "failed calling webhook"):
		i.report.wrong(check, "the API server must be able to connect to the Pods of keyferry-webhook: check the firewall, NetworkPolicies and the DNS of the control plane", "%v", err)
	case strings.Contains(err.Error(), guardPolicy):
		i.report.wrong(check, "look at the rules and selectors of MutatingWebhookConfiguration "+webhookConfiguration+": helm upgrade restores them",
			"the API server does not call the webhook; %s denies the Pod", guardPolicy)
	default:
		i.report.unknown(check, "use -n to select a namespace in which you may create Pods", "cannot create a Pod as a dry run: %v", err)
	}
}
