package injector

import (
	"bytes"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/keyferry/keyferry/injector/podview"
)

// decideResources sets the resources of Keyferry's containers. For most Pods these are the
// resources of the installation, whose JSON is used unchanged.
func (in *injection) decideResources() error {
	if len(in.cfg.Resources) > 0 {
		in.resources = in.cfg.Resources
	}
	named := in.requested.RefresherResources
	if named == nil && in.pod.Spec.Resources.IsEmpty() {
		return nil
	}
	merged, err := in.installedResources()
	if err != nil {
		return err
	}
	for _, whole := range in.podLevel() {
		whole.fit(&merged)
	}
	if named != nil {
		mergeResources(&merged, *named)
	}
	in.resources = nil
	if len(merged.Requests)+len(merged.Limits) > 0 {
		in.resources = merged
	}
	return nil
}

// installedResources returns the resources of the installation, with maps that the caller may
// change.
func (in *injection) installedResources() (corev1.ResourceRequirements, error) {
	resources := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	if len(in.cfg.Resources) > 0 {
		if err := json.Unmarshal(in.cfg.Resources, &resources); err != nil {
			return resources, fmt.Errorf("decoding the refresher's resources in this installation's configuration: %w", err)
		}
	}
	return resources, nil
}

// mergeResources overrides resources with those that the Pod names. If the Pod names only the
// request or only the limit of a resource, and the other would contradict it, the other gets the
// same value.
func mergeResources(merged *corev1.ResourceRequirements, named corev1.ResourceRequirements) {
	for name, limit := range named.Limits {
		merged.Limits[name] = limit
		if request, ok := merged.Requests[name]; ok && request.Cmp(limit) > 0 {
			merged.Requests[name] = limit
		}
	}
	for name, request := range named.Requests {
		merged.Requests[name] = request
		if limit, ok := merged.Limits[name]; ok && limit.Cmp(request) < 0 {
			merged.Limits[name] = request
		}
	}
}

// namesResource reports whether the Pod's annotation names a resource. kind is limits or requests.
func (in *injection) namesResource(kind, name string) bool {
	named := in.requested.RefresherResources
	if named == nil {
		return false
	}
	list := named.Requests
	if kind == "limits" {
		list = named.Limits
	}
	_, ok := list[corev1.ResourceName(name)]
	return ok
}

// guaranteedResources keep the QoS class Guaranteed of a Pod.
const guaranteedResources = `{"requests":{"cpu":"50m","memory":"64Mi"},"limits":{"cpu":"50m","memory":"64Mi"}}`

// losesGuaranteed reports whether Keyferry's containers change the Pod's QoS class from Guaranteed
// to Burstable.
func (in *injection) losesGuaranteed() bool {
	if !in.hasSidecar() || !in.pod.Spec.Resources.IsEmpty() {
		return false
	}
	for _, list := range [][]podview.Container{in.pod.Spec.InitContainers, in.pod.Spec.Containers} {
		for i := range list {
			if c := &list[i]; !podview.IsOurs(c.Name) && !isGuaranteed(c.Amounts) {
				return false
			}
		}
	}
	resources, ok := in.resources.(corev1.ResourceRequirements)
	if !ok {
		var err error
		if resources, err = in.installedResources(); err != nil {
			return false
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		limit, request := resources.Limits[name], resources.Requests[name]
		if _, ok := resources.Requests[name]; !ok {
			request = limit
		}
		if limit.IsZero() || limit.Cmp(request) != 0 {
			return true
		}
	}
	return false
}

// isGuaranteed reports whether a container has limits of CPU and memory, and equal or no requests.
// The API server sets missing requests to the limits.
func isGuaranteed(a podview.Amounts) bool {
	return isFixed(a.RequestedCPU, a.LimitCPU) && isFixed(a.RequestedMemory, a.LimitMemory)
}

func isFixed(request, limit []byte) bool {
	if len(limit) == 0 {
		return false
	}
	if len(request) == 0 || bytes.Equal(request, limit) {
		return true
	}
	a, err := parseAmount(request)
	b, also := parseAmount(limit)
	return err == nil && also == nil && a.Cmp(b) == 0
}

// parseAmount parses a quantity in JSON.
func parseAmount(raw []byte) (resource.Quantity, error) {
	const longest = 64 // longer than any useful quantity
	if len(raw) > longest || absurd.Match(raw) {
		return resource.Quantity{}, resource.ErrFormatWrong
	}
	return resource.ParseQuantity(string(bytes.Trim(raw, `"`)))
}
