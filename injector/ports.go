package injector

import (
	"fmt"

	"github.com/keyferry/keyferry/injector/podview"
)

// listensAt returns why the refresher listens at a port; empty if it does not.
func (in *injection) listensAt(port int) string {
	switch {
	case in.requested.MetricsPort != 0 && port == int(in.requested.MetricsPort):
		return "annotation " + AnnotationMetricsPort
	case in.delivery != targetProxy:
		return ""
	case port == firstProxyPort:
		return "delivery by proxy"
	case port >= furtherPort && port < furtherPort+len(in.requested.Clusters):
		return "annotation " + AnnotationClusters
	}
	return ""
}

// portWarnings are about containers that declare a port of the refresher. Containers of a Pod share
// their ports, and the refresher starts first.
func (in *injection) portWarnings() []string {
	if in.delivery != targetProxy && in.requested.MetricsPort == 0 {
		return nil
	}
	var warnings []string
	for _, containers := range [][]podview.Container{in.pod.Spec.InitContainers, in.pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			for _, port := range c.TCPPorts() {
				if reason := in.listensAt(port); reason != "" && !podview.IsOurs(c.Name) {
					warnings = append(warnings, fmt.Sprintf("container %s declares port %d, at which container %s listens (%s): if it listens there, too, "+
						"it does not start: use another port", c.Name, port, RefresherContainer, reason))
				}
			}
		}
	}
	return warnings
}
