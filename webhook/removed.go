package webhook

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/keyferry/keyferry/injector"
)

// configurationName is the name of Keyferry's webhook configurations.
const configurationName = "keyferry-webhook"

// withoutRemoved turns off the features in cfg whose fields another webhook has removed from an
// injected Pod, if the API server can call another webhook last. Keyferry could not restore the
// fields then, and without them the Pod would be denied. So the Pod is injected as in a cluster
// without these features. The warning names the cause.
func (h *Handler) withoutRemoved(ctx context.Context, pod *injector.Pod, requested injector.Annotations, cfg *injector.Config) (warnings []string, err error) {
	envFromFile, imageVolume := injector.RemovedFeatures(pod)
	envFromFile, imageVolume = envFromFile && cfg.EnvFromFile, imageVolume && cfg.ImageVolume
	if !envFromFile && !imageVolume {
		return nil, nil
	}
	last, err := h.calledLast(ctx)
	if err != nil {
		h.Log.Error(err, "looking for webhooks that the API server can call after Keyferry's")
	}
	if len(last) == 0 {
		return nil, nil // Keyferry restores the fields
	}
	cause := fmt.Sprintf("another webhook, built for an older Kubernetes, removes %s from the Pod, and the API server can call it after Keyferry's webhook",
		removedFields(envFromFile, imageVolume))
	fix := "update that webhook, which belongs to one of the MutatingWebhookConfigurations " + strings.Join(last, ", ")
	if envFromFile && requested.OnEndpointChange == injector.OnEndpointChangeRestart {
		return nil, invalid("CannotInject", "annotation %s: %s is not possible, because %s: %s; or set the annotation to %s",
			injector.AnnotationOnEndpointChange, injector.OnEndpointChangeRestart, cause, fix, injector.OnEndpointChangeIgnore)
	}
	cfg.EnvFromFile, cfg.ImageVolume = cfg.EnvFromFile && !envFromFile, cfg.ImageVolume && !imageVolume
	effect := "Keyferry injects the Pod without these fields"
	if envFromFile {
		effect += ", and if the endpoint of " + requested.ClusterName() + " changes, the Pod keeps the old endpoint"
	}
	return []string{cause + ". So " + effect + ": " + fix}, nil
}

// removedFields names the fields of the removed features, for messages.
func removedFields(envFromFile, imageVolume bool) string {
	var fields []string
	if envFromFile {
		fields = append(fields, "restartPolicyRules or fileKeyRef")
	}
	if imageVolume {
		fields = append(fields, "the image of volume "+injector.PluginVolume)
	}
	return strings.Join(fields, " and ")
}

// calledLast returns the names of the webhook configurations that the API server can call after its
// last call of Keyferry's webhook. API servers call configurations in the order of their names, and
// then call those again whose policy is IfNeeded.
func (h *Handler) calledLast(ctx context.Context) ([]string, error) {
	var all admissionregistrationv1.MutatingWebhookConfigurationList
	if err := h.Cached.List(ctx, &all); err != nil {
		return nil, fmt.Errorf("listing MutatingWebhookConfigurations: %w", err)
	}
	var names []string
	for i := range all.Items {
		if c := &all.Items[i]; c.Name > configurationName && slices.ContainsFunc(c.Webhooks, isCalledAgain) {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// isCalledAgain reports whether a webhook can be called again for a Pod that is created.
func isCalledAgain(w admissionregistrationv1.MutatingWebhook) bool {
	return w.ReinvocationPolicy != nil && *w.ReinvocationPolicy == admissionregistrationv1.IfNeededReinvocationPolicy &&
		slices.ContainsFunc(w.Rules, func(r admissionregistrationv1.RuleWithOperations) bool {
			return containsAny(r.APIGroups, "", "*") && containsAny(r.Resources, "pods", "pods/*", "*", "*/*") &&
				containsAny(r.Operations, admissionregistrationv1.Create, admissionregistrationv1.OperationAll)
		})
}

func containsAny[T comparable](list []T, values ...T) bool {
	return slices.ContainsFunc(values, func(value T) bool { return slices.Contains(list, value) })
}

// StripConfiguration removes from a MutatingWebhookConfiguration what this package does not read.
// It is the transform of its cache.
func StripConfiguration(object any) (any, error) {
	c, ok := object.(*admissionregistrationv1.MutatingWebhookConfiguration)
	if !ok {
		return object, nil
	}
	stripped := &admissionregistrationv1.MutatingWebhookConfiguration{}
	stripped.Name, stripped.UID, stripped.ResourceVersion = c.Name, c.UID, c.ResourceVersion
	for _, w := range c.Webhooks {
		stripped.Webhooks = append(stripped.Webhooks, admissionregistrationv1.MutatingWebhook{ReinvocationPolicy: w.ReinvocationPolicy, Rules: w.Rules})
	}
	return stripped, nil
}
