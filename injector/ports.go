package injector

import (
	"slices"

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

// warnOfPorts adds a warning for each container that declares a port of the refresher. Containers
// of a Pod share their ports, and the refresher starts first.
func (in *injection) warnOfPorts(found *warnings) {
	if in.delivery != targetProxy && in.requested.MetricsPort == 0 {
		return
	}
	for _, containers := range [][]podview.Container{in.pod.Spec.InitContainers, in.pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if podview.IsOurs(c.Name) {
				continue
			}
			var ports []int
			c.TCPPorts(func(port int) {
				if reason := in.listensAt(port); reason != "" && !slices.Contains(ports, port) {
					ports = append(ports, port)
					found.add("container %s declares port %d, on which container %s listens (%s), so one of them might not start: "+
						"configure the first container to use another port", c.Name, port, RefresherContainer, reason)
				}
			})
		}
	}
}
