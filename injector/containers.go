package injector

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

const (
	// serviceAccountDir is where in-cluster clients read token, ca.crt and namespace.
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	// localDir keeps what was mounted there before, for whoever needs the local cluster.
	localDir      = "/var/run/secrets/keyferry.dev/local"
	envHost       = "KUBERNETES_SERVICE_HOST"
	envPort       = "KUBERNETES_SERVICE_PORT"
	envPortHTTPS  = "KUBERNETES_SERVICE_PORT_HTTPS"
	envKubeconfig = "KUBECONFIG"

	// envFile is the file of the credentials volume that env comes from.
	envFile = "env"
)

// proxies are the containers of other injectors that are at work for this cluster, with this cluster's credentials: what in-cluster means
// for the application is not for them. They are injected only if the Pod names them.
var proxies = [...]string{
	"istio-init", "istio-validation", "istio-proxy",
	"linkerd-init", "linkerd-network-validator", "linkerd-proxy",
	"kuma-init", "kuma-validation", "kuma-sidecar",
	"consul-connect-inject-init", "consul-dataplane", "envoy", "envoy-sidecar",
	"vault-agent-init", "vault-agent",
	"azwi-proxy-init", "azwi-proxy",
	"daprd",
}

func isProxy(name string) bool {
	return slices.Contains(proxies[:], name)
}

// chosenContainer is a container to inject, and where it is.
type chosenContainer struct {
	*container
	path string // such as /spec/containers/0
}

// wants tells whether a container is to be injected.
func (in *injection) wants(name string) bool {
	switch {
	case name == RefresherContainer || slices.Contains(in.want.ExcludeContainers, name):
		return false
	case in.want.Containers != nil:
		return slices.Contains(in.want.Containers, name)
	default:
		return !isProxy(name)
	}
}

// choose fills in.chosen. A name that the Pod lacks is refused, since it is a typo; only proxies may be excluded before their injectors
// have added them.
func (in *injection) choose(problems *problems) {
	for _, name := range in.want.Containers {
		if !in.pod.hasContainer(name) {
			problems.add("annotation %s: the Pod has no container %q: use some of %s", AnnotationContainers, name, in.pod.containerNames())
		}
	}
	for _, name := range in.want.ExcludeContainers {
		if !isProxy(name) && !in.pod.hasContainer(name) {
			problems.add("annotation %s: the Pod has no container %q: use some of %s", AnnotationExcludeContainers, name, in.pod.containerNames())
		}
	}
	in.chosen = make([]chosenContainer, 0, len(in.pod.spec.initContainers)+len(in.pod.spec.containers))
	in.chooseFrom(in.pod.spec.initContainers, initContainersPath)
	in.chooseFrom(in.pod.spec.containers, "/spec/containers")
	if len(in.chosen) == 0 && len(*problems) == 0 {
		problems.add("no container is left to inject: name one in annotation %s, or remove annotation %s", AnnotationContainers, AnnotationCluster)
	}
}

func (in *injection) chooseFrom(containers []container, list string) {
	for i := range containers {
		if in.wants(containers[i].name) {
			in.chosen = append(in.chosen, chosenContainer{container: &containers[i], path: at(list, "/", i)})
		}
	}
}

// environment returns the variables that in-cluster clients find their API server by: fromFile they follow what the refresher writes at
// each start of the container.
func environment(fromFile bool, host, port string) [3]corev1.EnvVar {
	env := [3]corev1.EnvVar{
		{Name: envHost, Value: host},
		{Name: envPort, Value: port},
		{Name: envPortHTTPS, Value: port},
	}
	if fromFile {
		keys, sources := new([len(env)]corev1.FileKeySelector), new([len(env)]corev1.EnvVarSource)
		for i, e := range env {
			keys[i] = corev1.FileKeySelector{VolumeName: CredentialsVolume, Path: envFile, Key: e.Name}
			sources[i].FileKeyRef = &keys[i]
			env[i] = corev1.EnvVar{Name: e.Name, ValueFrom: &sources[i]}
		}
	}
	return env
}

func (in *injection) injectContainers(ops *operations) {
	// Boxed once: they are the same for every container.
	var env [len(in.env)]any
	for i := range env {
		env[i] = in.env[i]
	}
	var mount any = corev1.VolumeMount{Name: CredentialsVolume, ReadOnly: true, MountPath: serviceAccountDir}
	for _, c := range in.chosen {
		c.injectEnv(ops, in.env[:], env[:])
		c.injectMounts(ops, mount)
	}
}

// injectEnv puts want first in the list: an entry before them that refers to $(KUBERNETES_SERVICE_HOST) would get the local one, and of
// entries with the same name the last one wins, so the container's own go.
func (c chosenContainer) injectEnv(ops *operations, want []corev1.EnvVar, boxed []any) {
	if c.envCount == 0 {
		ops.add(c.path+"/env", boxed)
		return
	}
	if c.hasEnv(want) {
		return
	}
	for _, e := range slices.Backward(c.env) {
		if e.name != envKubeconfig {
			ops.remove(at(c.path, "/env/", e.index))
		}
	}
	first := c.path + "/env/0"
	for _, value := range slices.Backward(boxed) {
		ops.add(first, value)
	}
}

// hasEnv tells whether want is first in the list already, and nowhere else.
func (c *container) hasEnv(want []corev1.EnvVar) bool {
	found := 0
	for i := range c.env {
		e := &c.env[i]
		switch {
		case e.name == envKubeconfig:
		case e.index < len(want) && e.is(&want[e.index]):
			found++
		default:
			return false
		}
	}
	return found == len(want)
}

func (e *env) is(want *corev1.EnvVar) bool {
	var fileKey corev1.FileKeySelector
	if want.ValueFrom != nil {
		fileKey = *want.ValueFrom.FileKeyRef
	}
	return e.name == want.Name && e.value == want.Value && e.fileKey == fileKey
}

// injectMounts replaces what is mounted at serviceAccountDir, in place: the ServiceAccount admission plugin adds a mount again that is gone.
// What it has been replaced by stays to be had at localDir.
func (c chosenContainer) injectMounts(ops *operations, value any) {
	var first *mount
	for i := range slices.Backward(c.mounts) {
		if c.mounts[i].dir != serviceAccountDir {
			continue
		}
		if first != nil {
			ops.remove(at(c.path, "/volumeMounts/", first.index))
		}
		first = &c.mounts[i]
	}
	switch {
	case c.mountCount == 0:
		ops.add(c.path+"/volumeMounts", []any{value})
	case first == nil:
		ops.add(c.path+"/volumeMounts/-", value)
	case !first.isOurs():
		ops.replace(at(c.path, "/volumeMounts/", first.index), value)
	}
	if local := c.localMount(); local != nil && c.mountAt(localDir) == nil {
		ops.add(c.path+"/volumeMounts/-", corev1.VolumeMount{Name: local.volume, ReadOnly: local.readOnly, MountPath: localDir})
	}
}

// localMount returns what is mounted at serviceAccountDir and is not ours; nil if nothing is. The plugin's own mount is the last one, if
// one before it has a path that the plugin does not know to be the same.
func (c *container) localMount() *mount {
	for i := range slices.Backward(c.mounts) {
		if m := &c.mounts[i]; m.dir == serviceAccountDir && m.volume != CredentialsVolume {
			return m
		}
	}
	return nil
}

// mountAt returns the first mount at dir; nil if there is none.
func (c *container) mountAt(dir string) *mount {
	for i := range c.mounts {
		if c.mounts[i].dir == dir {
			return &c.mounts[i]
		}
	}
	return nil
}

func (m *mount) isOurs() bool {
	return m.volume == CredentialsVolume && m.path == serviceAccountDir && m.readOnly && !m.subPath
}

// checkMounts refuses what cannot be had together with ours.
func (c *container) checkMounts(problems *problems) {
	for i := range c.mounts {
		m := &c.mounts[i]
		switch {
		case m.dir != serviceAccountDir && m.dir != localDir:
			problems.add("container %s mounts volume %s at %s, inside what Keyferry mounts: remove the mount, or exclude the container with annotation %s",
				c.name, m.volume, m.path, AnnotationExcludeContainers)
		case m.dir == serviceAccountDir && m.subPath:
			problems.add("container %s mounts a subPath of volume %s at %s, which Keyferry would replace: remove the mount, or exclude the container with annotation %s",
				c.name, m.volume, m.path, AnnotationExcludeContainers)
		}
	}
	if local, taken := c.localMount(), c.mountAt(localDir); local != nil && taken != nil && local.volume != taken.volume {
		problems.add("container %s mounts volume %s at %s, which is reserved for the local service account: mount it elsewhere", c.name, taken.volume, taken.path)
	}
}
