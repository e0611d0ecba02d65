package injector

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/keyferry/keyferry/injector/podview"
)

// podLevel is the request and the limit of one resource for the Pod as a whole (spec.resources).
// They include the sidecar's.
type podLevel struct {
	name           corev1.ResourceName
	request, limit *resource.Quantity // nil means none
}

// podLevel returns the resources that spec.resources sets.
func (in *injection) podLevel() []podLevel {
	var set []podLevel
	amounts := in.pod.Spec.Resources
	for _, p := range [...]podLevel{
		{corev1.ResourceCPU, quantity(amounts.RequestedCPU), quantity(amounts.LimitCPU)},
		{corev1.ResourceMemory, quantity(amounts.RequestedMemory), quantity(amounts.LimitMemory)},
	} {
		if p.request != nil || p.limit != nil {
			set = append(set, p)
		}
	}
	return set
}

// quantity returns nil if raw is no quantity in JSON.
func quantity(raw []byte) *resource.Quantity {
	parsed, err := parseAmount(raw)
	if err != nil {
		return nil
	}
	return &parsed
}

// fit changes the sidecar's resources so that they fit any Pod. A request could exceed what the
// other containers leave of the Pod's request, so it is 0. Without a request, the sidecar would get
// the default of a LimitRange.
//
// If the Pod has only a limit, the sidecar has no resources: its request would become the request
// of the Pod.
func (p podLevel) fit(sidecar *corev1.ResourceRequirements) {
	if p.request == nil {
		delete(sidecar.Requests, p.name)
		delete(sidecar.Limits, p.name)
		return
	}
	sidecar.Requests[p.name] = resource.Quantity{}
}

// warnOfPodLevel adds a warning for each request of the sidecar, from the Pod's annotation, that
// does not fit the resources of the Pod as a whole. The API server denies such a Pod, but accepts a
// workload with such a Pod template.
func (in *injection) warnOfPodLevel(found *warnings) {
	sidecar, ok := in.resources.(corev1.ResourceRequirements)
	if !ok || in.requested.RefresherResources == nil {
		return
	}
	for _, p := range in.podLevel() {
		whole, field := p.request, "spec.resources.requests"
		if whole == nil {
			whole, field = p.limit, "spec.resources.limits"
		}
		request, ok := sidecar.Requests[p.name]
		if !ok {
			request = sidecar.Limits[p.name] // the API server's default
		}
		others := in.requestOfOthers(p.name)
		sum := others.DeepCopy()
		if sum.Add(request); others.Cmp(*whole) <= 0 && sum.Cmp(*whole) > 0 {
			found.add("annotation %s: the sidecar requests %s of %s, so all containers request %s, but %s of the Pod is %s: lower the sidecar's request, or raise %s",
				AnnotationRefresherResources, &request, p.name, &sum, field, whole, field)
		}
	}
}

// requestOfOthers returns the sum of what the other containers request while the Pod runs.
func (in *injection) requestOfOthers(name corev1.ResourceName) resource.Quantity {
	var sum resource.Quantity
	add := func(c *podview.Container) {
		request, limit := c.Amounts.RequestedCPU, c.Amounts.LimitCPU
		if name == corev1.ResourceMemory {
			request, limit = c.Amounts.RequestedMemory, c.Amounts.LimitMemory
		}
		if request == nil {
			request = limit // the API server's default
		}
		if q := quantity(request); q != nil && !podview.IsOurs(c.Name) {
			sum.Add(*q)
		}
	}
	for i := range in.pod.Spec.Containers {
		add(&in.pod.Spec.Containers[i])
	}
	for i := range in.pod.Spec.InitContainers {
		if c := &in.pod.Spec.InitContainers[i]; c.Sidecar {
			add(c)
		}
	}
	return sum
}
