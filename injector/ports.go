package injector

import (
	"fmt"

	"github.com/keyferry/keyferry/injector/podview"
)

// sidecarPorts returns the ports at which the refresher listens, by the reason for it.
func (in *injection) sidecarPorts() map[int]string {
	ports := make(map[int]string)
	if in.delivery == targetProxy {
		ports[firstProxyPort] = "delivery by proxy"
		for i := range in.want.Clusters {
			ports[furtherPort+i] = "annotation " + AnnotationClusters
		}
	}
	if port := in.want.MetricsPort; port != 0 {
		ports[int(port)] = "annotation " + AnnotationMetricsPort
	}
	return ports
}

// portWarnings are about containers that declare a port of the refresher. Containers of a Pod share
// their ports, and the refresher starts first.
func (in *injection) portWarnings() []string {
	var warnings []string
	taken := in.sidecarPorts()
	for _, containers := range [][]podview.Container{in.pod.Spec.InitContainers, in.pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			for _, port := range c.Ports {
				if reason, ok := taken[port]; ok && !podview.IsOurs(c.Name) {
					warnings = append(warnings, fmt.Sprintf("container %s declares port %d, at which container %s listens (%s): if it listens there, too, "+
						"it does not start: use another port", c.Name, port, RefresherContainer, reason))
				}
			}
		}
	}
	return warnings
}
