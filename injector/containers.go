package injector

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	// serviceAccountDir is where in-cluster clients read token, ca.crt and namespace.
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	// localDir keeps what was mounted there before, for whoever needs the local cluster.
	localDir = "/var/run/secrets/keyferry.dev/local"
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
	*Container
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
	in.chosen = make([]chosenContainer, 0, len(in.pod.Spec.InitContainers)+len(in.pod.Spec.Containers))
	in.chooseFrom(in.pod.Spec.InitContainers, initContainersPath)
	in.chooseFrom(in.pod.Spec.Containers, "/spec/containers")
	if len(in.chosen) == 0 && len(*problems) == 0 {
		problems.add("no container is left to inject: name one in annotation %s, or remove annotation %s", AnnotationContainers, AnnotationCluster)
	}
}

func (in *injection) chooseFrom(containers []Container, list string) {
	for i := range containers {
		if in.wants(containers[i].Name) {
			in.chosen = append(in.chosen, chosenContainer{Container: &containers[i], path: at(list, i)})
		}
	}
}

// environment returns the variables that in-cluster clients find their API server by: fromFile they follow what the refresher writes at
// each start of the container.
func environment(fromFile bool, host, port string) [3]corev1.EnvVar {
	env := [3]corev1.EnvVar{
		{Name: "KUBERNETES_SERVICE_HOST", Value: host},
		{Name: "KUBERNETES_SERVICE_PORT", Value: port},
		{Name: "KUBERNETES_SERVICE_PORT_HTTPS", Value: port},
	}
	if fromFile {
		for i, e := range env {
			ref := &corev1.FileKeySelector{VolumeName: CredentialsVolume, Path: envFile, Key: e.Name}
			env[i] = corev1.EnvVar{Name: e.Name, ValueFrom: &corev1.EnvVarSource{FileKeyRef: ref}}
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
	if len(c.Env) == 0 {
		ops.add(c.path+"/env", boxed)
		return
	}
	same := len(c.Env) >= len(want)
	for i := 0; same && i < len(want); i++ {
		same = c.Env[i].is(want[i])
	}
	isOurs := func(e Env) bool {
		return slices.ContainsFunc(want, func(w corev1.EnvVar) bool { return w.Name == e.Name })
	}
	if same && !slices.ContainsFunc(c.Env[len(want):], isOurs) {
		return
	}
	list := c.path + "/env"
	for i := len(c.Env) - 1; i >= 0; i-- {
		if isOurs(c.Env[i]) {
			ops.remove(at(list, i))
		}
	}
	for i := range boxed {
		ops.add(at(list, i), boxed[i])
	}
}

func (e *Env) is(want corev1.EnvVar) bool {
	if e.Name != want.Name || e.Value != want.Value {
		return false
	}
	if want.ValueFrom == nil {
		return e.ValueFrom.FileKeyRef == corev1.FileKeySelector{}
	}
	have, ref := e.ValueFrom.FileKeyRef, want.ValueFrom.FileKeyRef
	return have.VolumeName == ref.VolumeName && have.Path == ref.Path && have.Key == ref.Key
}

// injectMounts replaces what is mounted at serviceAccountDir, in place: the ServiceAccount admission plugin adds a mount again that is gone.
// What it has been replaced by stays to be had at localDir.
func (c chosenContainer) injectMounts(ops *operations, mount any) {
	list := c.path + "/volumeMounts"
	first := -1
	for i := len(c.VolumeMounts) - 1; i >= 0; i-- {
		if c.VolumeMounts[i].cleanPath() != serviceAccountDir {
			continue
		}
		if first >= 0 {
			ops.remove(at(list, first))
		}
		first = i
	}
	switch {
	case len(c.VolumeMounts) == 0:
		ops.add(list, []any{mount})
	case first < 0:
		ops.add(list+"/-", mount)
	case !c.VolumeMounts[first].isOurs():
		ops.replace(at(list, first), mount)
	}
	if local := c.localMount(); local != nil && c.mountAt(localDir) == nil {
		ops.add(list+"/-", corev1.VolumeMount{Name: local.Name, ReadOnly: local.ReadOnly, MountPath: localDir})
	}
}

// localMount returns what is mounted at serviceAccountDir and is not ours; nil if nothing is. The plugin's own mount is the last one, if
// one before it has a path that the plugin does not know to be the same.
func (c *Container) localMount() *VolumeMount {
	for i := len(c.VolumeMounts) - 1; i >= 0; i-- {
		if m := &c.VolumeMounts[i]; m.Name != CredentialsVolume && m.cleanPath() == serviceAccountDir {
			return m
		}
	}
	return nil
}

// mountAt returns the first mount at dir; nil if there is none.
func (c *Container) mountAt(dir string) *VolumeMount {
	for i := range c.VolumeMounts {
		if m := &c.VolumeMounts[i]; m.cleanPath() == dir {
			return m
		}
	}
	return nil
}

// checkMounts refuses what cannot be had together with ours.
func (c *Container) checkMounts(problems *problems) {
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		dir := m.cleanPath()
		switch {
		case strings.HasPrefix(dir, serviceAccountDir+"/"):
			problems.add("container %s mounts volume %s at %s, inside what Keyferry mounts: remove the mount, or exclude the container with annotation %s",
				c.Name, m.Name, m.MountPath, AnnotationExcludeContainers)
		case dir == serviceAccountDir && m.SubPath+m.SubPathExpr != "":
			problems.add("container %s mounts a subPath of volume %s at %s, which Keyferry would replace: remove the mount, or exclude the container with annotation %s",
				c.Name, m.Name, m.MountPath, AnnotationExcludeContainers)
		}
	}
	if local, taken := c.localMount(), c.mountAt(localDir); local != nil && taken != nil && local.Name != taken.Name {
		problems.add("container %s mounts volume %s at %s, which is reserved for the local service account: mount it elsewhere", c.Name, taken.Name, taken.MountPath)
	}
}

func (m *VolumeMount) isOurs() bool {
	return *m == VolumeMount{Name: CredentialsVolume, ReadOnly: true, MountPath: serviceAccountDir}
}

// cleanPath is the path as the kubelet takes it: to it a trailing slash makes no difference, to the API server it does.
func (m *VolumeMount) cleanPath() string {
	if strings.HasPrefix(m.MountPath, "/") {
		return path.Clean(m.MountPath)
	}
	return path.Clean("/" + m.MountPath)
}
