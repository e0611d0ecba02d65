package webhook

import (
	"context"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector"
)

// reviewPod answers for a Pod that is being created.
func (h *Handler) reviewPod(ctx context.Context, request *request) (answer, error) {
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	if got := request.resource; got.Group != pods.Group || got.Version != pods.Version || got.Resource != pods.Resource ||
		request.subResource != "" || request.operation != admissionv1.Create {
		return answer{}, &denial{http.StatusBadRequest, "BadRequest", "BadRequest",
			"keyferry injects Pods at their creation only: remove everything else from the rules of the MutatingWebhookConfiguration"}
	}
	pod, err := injector.ReadPod(request.object)
	if err != nil {
		return answer{}, invalid("Malformed", "%v", err)
	}
	return h.admit(ctx, request.namespace, pod)
}

// admit decides on a Pod, or on a Pod template as if it were one. namespace is that of the request:
// the object's own may be empty.
func (h *Handler) admit(ctx context.Context, namespace string, pod *injector.Pod) (answer, error) {
	want, err := injector.ParseAnnotations(pod.Metadata.Annotations, namespace)
	if err != nil {
		return answer{}, invalid("InvalidAnnotation", "%v", err)
	}
	if want.Empty() {
		return answer{reason: "NotAsked"}, nil
	}
	target, warnings, err := h.target(ctx, requester{types.NamespacedName{Namespace: namespace, Name: pod.ServiceAccountName()}, pod.Metadata.Name}, want)
	if err != nil {
		return answer{}, err
	}
	result, err := injector.Inject(pod, want, target, h.injection(ctx, pod))
	if err != nil {
		return answer{}, invalid("CannotInject", "%v", err)
	}
	given := answer{patch: result.Operations, warnings: append(warnings, result.Warnings...), reason: "Injected"}
	if len(result.Operations) == 0 {
		given.reason = "Unchanged"
	}
	return given, nil
}

// injection is what is injected into a Pod: the same for all, but for what depends on the cluster
// as it is now.
func (h *Handler) injection(ctx context.Context, pod *injector.Pod) injector.Config {
	cfg := h.Injection
	cfg.EnvFromFile = h.EnvFromFile()
	cfg.ImageVolume = h.ImageVolume()
	if pod.ResolvesServices() {
		return cfg
	}
	address, err := h.BrokerAddress(ctx)
	if err != nil {
		h.Log.Error(err, "looking up the broker for a Pod whose DNS does not know Services")
	}
	cfg.BrokerAddress = address // empty: the injector says what the Pod can do about it
	return cfg
}
