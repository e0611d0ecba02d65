package injector

import (
	"bytes"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/keyferry/keyferry/injector/podview"
)

// decideResources decides the resources of Keyferry's containers. Most Pods leave them to the
// installation, whose JSON goes into the Pod as it is.
func (in *injection) decideResources() error {
	if len(in.cfg.Resources) > 0 {
		in.resources = in.cfg.Resources
	}
	named, podLevel := in.want.RefresherResources, in.pod.Spec.Resources
	if named == nil && len(podLevel) == 0 {
		return nil
	}
	merged, err := in.installedResources()
	if err != nil {
		return err
	}
	// The Pod's budget includes what the sidecar uses. Requests of the sidecar's own would exceed a
	// budget that is the sum of the containers', and be the Pod's if it has none.
	for _, name := range podLevel {
		delete(merged.Requests, corev1.ResourceName(name))
		delete(merged.Limits, corev1.ResourceName(name))
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

// installedResources returns those of the installation, with maps that can be written to.
func (in *injection) installedResources() (corev1.ResourceRequirements, error) {
	resources := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	if len(in.cfg.Resources) > 0 {
		if err := json.Unmarshal(in.cfg.Resources, &resources); err != nil {
			return resources, fmt.Errorf("decoding the refresher's resources of this installation: %w", err)
		}
	}
	return resources, nil
}

// mergeResources puts what a Pod names over what is there. Of a resource of which the Pod names one
// side only, the other follows where they would contradict each other.
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

// namesResource reports whether the Pod itself names the amount, of kind limits or requests.
func (in *injection) namesResource(kind, name string) bool {
	named := in.want.RefresherResources
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

// guaranteedResources keep the QoS class of a Pod whose containers all have limits equal to their
// requests.
const guaranteedResources = `{"requests":{"cpu":"50m","memory":"64Mi"},"limits":{"cpu":"50m","memory":"64Mi"}}`

// losesGuaranteed reports whether the Pod's QoS class is Guaranteed without Keyferry's containers,
// and Burstable with them.
func (in *injection) losesGuaranteed() bool {
	if !in.hasSidecar() || len(in.pod.Spec.Resources) > 0 {
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

// isGuaranteed reports whether a container has limits of CPU and memory, and requests equal to them
// or, as is the API's default, none.
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

// parseAmount reads a quantity as it is written in JSON.
func parseAmount(raw []byte) (resource.Quantity, error) {
	if absurd.Match(raw) {
		return resource.Quantity{}, resource.ErrFormatWrong
	}
	return resource.ParseQuantity(string(bytes.Trim(raw, `"`)))
}
