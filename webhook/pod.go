package webhook

import (
	"context"
	"net/http"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector"
)

// reviewPod reviews the creation of a Pod.
func (h *Handler) reviewPod(ctx context.Context, request *request) (answer, error) {
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	if got := request.resource; got.Group != pods.Group || got.Version != pods.Version || got.Resource != pods.Resource ||
		request.subResource != "" || request.operation != admissionv1.Create {
		return answer{}, &denial{http.StatusBadRequest, "BadRequest", "BadRequest",
			"keyferry injects Pods only when they are created: remove all other rules from the MutatingWebhookConfiguration"}
	}
	pod, err := injector.ReadPod(request.object)
	if err != nil {
		return answer{}, invalid("Malformed", "%v", err)
	}
	return h.admit(ctx, request, pod)
}

// admit injects a Pod, or a Pod template as if it were a Pod. Its namespace is that of the request,
// because that of the object may be empty.
func (h *Handler) admit(ctx context.Context, request *request, pod *injector.Pod) (answer, error) {
	namespace := request.namespace
	requested, err := injector.ParseAnnotations(pod.Metadata.Annotations, namespace)
	switch {
	case err != nil:
		return answer{}, invalid("InvalidAnnotation", "%v", err)
	case requested.Empty():
		return answer{reason: "NotAsked"}, nil
	case pod.Exceeded != nil:
		return answer{}, invalid("TooLarge", "%v", pod.Exceeded)
	}
	if err := request.held.grow(pod.Memory); err != nil {
		return answer{}, err
	}
	target, warnings, err := h.target(ctx, requester{types.NamespacedName{Namespace: namespace, Name: pod.ServiceAccountName()}, pod.Metadata.Name}, requested)
	if err != nil {
		return answer{}, err
	}
	cfg := h.injection(ctx, pod)
	removed, err := h.withoutRemoved(ctx, pod, requested, &cfg)
	if err != nil {
		return answer{}, err
	}
	result, err := injector.Inject(pod, requested, target, cfg)
	if err != nil {
		return answer{}, invalid("CannotInject", "%v", err)
	}
	given := answer{patch: result.Operations, warnings: slices.Concat(warnings, removed, result.Warnings), reason: "Injected"}
	if len(result.Operations) == 0 {
		given.reason = "Unchanged"
	}
	return given, nil
}

// injection returns the configuration for a Pod: h.Injection with the features of the cluster, and
// the broker's address if the Pod needs it.
func (h *Handler) injection(ctx context.Context, pod *injector.Pod) injector.Config {
	cfg := h.Injection
	cfg.EnvFromFile = h.EnvFromFile()
	cfg.ImageVolume = h.ImageVolume()
	if pod.ResolvesServices() {
		return cfg
	}
	address, err := h.BrokerAddress(ctx)
	if err != nil {
		h.Log.Error(err, "reading the broker's ClusterIP, because the Pod's DNS does not resolve Services")
	}
	cfg.BrokerAddress = address // if it is empty, the injector returns an error with the fix
	return cfg
}
