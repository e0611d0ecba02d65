package injector

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/injector/podview"
)

const (
	// filesDir is the directory with the files in the credentials volume. The refresher creates it,
	// because the root of a volume does not work: a tmpfs is world-writable and sticky, and there the
	// kernel (fs.protected_symlinks) follows a symlink only for the user who created it. Containers
	// with another user than the refresher's could not read the files.
	filesDir = "serviceaccount"
	// envFile is the file that the variables are read from.
	envFile = filesDir + "/env"
	// localVolumePrefix begins the names of the volumes that the ServiceAccount admission plugin adds.
	localVolumePrefix = "kube-api-access-"
)

// proxies are containers of other injectors. They use the local cluster with its credentials, so
// they are injected only if the Pod names them.
var proxies = [...]string{
	"istio-init", "istio-validation", "istio-proxy",
	"linkerd-init", "linkerd-network-validator", "linkerd-proxy",
	"kuma-init", "kuma-validation", "kuma-sidecar",
	"consul-connect-inject-init", "consul-dataplane", "envoy", "envoy-sidecar",
	"vault-agent-init", "vault-agent",
	"azwi-proxy-init", "azwi-proxy",
	"daprd",
	"queue-proxy", // of Knative
}

func isProxy(name string) bool {
	return slices.Contains(proxies[:], name)
}

// executors are the containers that Argo Workflows adds to its Pods. They report results to the
// local cluster. Other Pods may have containers with these names.
var executors = [...]string{"init", "wait"}

// isLocal reports whether a container uses the local cluster unless the Pod names it.
func (in *injection) isLocal(name string) bool {
	return isProxy(name) || in.pod.Metadata.IsWorkflow && slices.Contains(executors[:], name)
}

// chosenContainer is a container to inject, with its path in the Pod.
type chosenContainer struct {
	*podview.Container
	path string // such as /spec/containers/0
}

// wants reports whether a container is to be injected.
func (in *injection) wants(name string) bool {
	switch {
	case podview.IsOurs(name) || slices.Contains(in.requested.ExcludeContainers, name):
		return false
	case in.requested.Containers != nil:
		return slices.Contains(in.requested.Containers, name)
	default:
		return !in.isLocal(name)
	}
}

// choose sets in.chosen. If the Pod lacks a container to inject, choose adds a problem: the name
// may be a typo, and the intended container would use the local cluster. A container to exclude may
// be missing, because a later webhook may add it.
func (in *injection) choose(problems *problems) {
	for _, name := range in.requested.Containers {
		if !in.pod.HasContainer(name) {
			problems.add("annotation %s: the Pod has no container %q: its containers are %s", AnnotationContainers, name, in.pod.ContainerNames())
		}
	}
	in.chosen = make([]chosenContainer, 0, len(in.pod.Spec.InitContainers)+len(in.pod.Spec.Containers))
	in.chooseFrom(in.pod.Spec.InitContainers, initContainersPath)
	in.chooseFrom(in.pod.Spec.Containers, containersPath)
	in.findMountpoints()
	if len(in.chosen) == 0 && len(*problems) == 0 {
		problems.add("no container is selected: list one in annotation %s, or remove annotation %s", AnnotationContainers, in.requested.ClusterAnnotation())
	}
}

func (in *injection) chooseFrom(containers []podview.Container, list string) {
	for i := range containers {
		if in.wants(containers[i].Name) {
			in.chosen = append(in.chosen, chosenContainer{Container: &containers[i], path: at(list, "/", i)})
		}
	}
}

// environment returns the variables in which in-cluster clients find their API server. If fromFile
// is true, the kubelet reads them from a file of the refresher at each start of the container.
func environment(fromFile bool, host, port string) [3]corev1.EnvVar {
	env := [3]corev1.EnvVar{
		{Name: podview.EnvHost, Value: host},
		{Name: podview.EnvPort, Value: port},
		{Name: podview.EnvPortHTTPS, Value: port},
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
	// Boxed once, because they are the same for every container.
	var env [len(in.env)]any
	for i := range env {
		env[i] = in.env[i]
	}
	wanted := corev1.VolumeMount{Name: CredentialsVolume, ReadOnly: true, MountPath: podview.ServiceAccountDir}
	if in.hasSidecar() {
		wanted.SubPath = filesDir
	}
	var mount any = wanted
	for _, c := range in.chosen {
		before := len(*ops)
		var except exceptions
		if in.delivery == targetProxy {
			except = c.exceptLoopback()
		}
		except.replace(ops)
		if in.inCluster() {
			c.injectEnv(ops, in.env[:], env[:])
			c.injectMounts(ops, wanted.SubPath, mount)
		}
		in.addEnv(ops, c, except)
		if in.several() {
			in.mountKubeconfig(ops, c)
		}
		in.noteRestoredIn(c, (*ops)[before:])
	}
	if in.inCluster() {
		in.giveBack(ops)
	}
}

// noteRestoredIn records which parts of a container that was injected before are changed by ops.
func (in *injection) noteRestoredIn(c chosenContainer, ops operations) {
	if !in.isInjected(c) {
		return
	}
	var parts []string
	for _, part := range [...]string{"env", "volumeMounts"} {
		path := c.path + "/" + part
		if slices.ContainsFunc(ops, func(o Operation) bool { return o.Path == path || strings.HasPrefix(o.Path, path+"/") }) {
			parts = append(parts, part)
		}
	}
	if len(parts) > 0 {
		in.noteRestored("container", c.Name, parts...)
	}
}

// addEnv adds the variables of the proxy exceptions and KUBECONFIG, after those that in-cluster
// clients read.
func (in *injection) addEnv(ops *operations, c chosenContainer, except exceptions) {
	ours := 0
	if in.inCluster() {
		ours = len(in.env)
	}
	for _, source := range except.sources {
		ops.add(at(c.path, "/env/", ours), source)
	}
	added := except.added
	if in.several() && in.setsKubeconfig(c) {
		added = append(added, corev1.EnvVar{Name: podview.EnvKubeconfig, Value: Kubeconfig})
	}
	if len(added) > 0 && c.EnvCount+ours == 0 {
		ops.add(c.path+"/env", added)
		return
	}
	for _, e := range added {
		ops.add(c.path+"/env/-", e)
	}
}

// injectEnv puts wanted first in the container's list of variables: an entry before them that
// refers to $(KUBERNETES_SERVICE_HOST) would get the local host. It removes the container's own
// variables of the same names, because the last of several entries with one name wins.
func (c chosenContainer) injectEnv(ops *operations, wanted []corev1.EnvVar, boxed []any) {
	if c.EnvCount == 0 {
		ops.add(c.path+"/env", boxed)
		return
	}
	if c.hasEnv(wanted) {
		return
	}
	for _, e := range slices.Backward(c.Env) {
		if e.Name != podview.EnvKubeconfig {
			ops.remove(at(c.path, "/env/", e.Index))
		}
	}
	first := c.path + "/env/0"
	for _, value := range slices.Backward(boxed) {
		ops.add(first, value)
	}
}

// hasEnv reports whether wanted is already first in the list, and the names occur nowhere else.
func (c chosenContainer) hasEnv(wanted []corev1.EnvVar) bool {
	found := 0
	for i := range c.Env {
		e := &c.Env[i]
		switch {
		case e.Name == podview.EnvKubeconfig:
		case e.Index < len(wanted) && same(e, &wanted[e.Index]):
			found++
		default:
			return false
		}
	}
	return found == len(wanted)
}

func same(e *podview.Env, wanted *corev1.EnvVar) bool {
	var fileKey corev1.FileKeySelector
	var configMapKey corev1.ConfigMapKeySelector
	var secretKey corev1.SecretKeySelector
	switch from := wanted.ValueFrom; {
	case from == nil:
	case from.FileKeyRef != nil:
		fileKey = *from.FileKeyRef
	case from.ConfigMapKeyRef != nil:
		configMapKey = *from.ConfigMapKeyRef
	case from.SecretKeyRef != nil:
		secretKey = *from.SecretKeyRef
	}
	return e.Name == wanted.Name && e.Value == wanted.Value && e.FileKey == fileKey && e.ConfigMapKey == configMapKey && e.SecretKey == secretKey
}

// injectMounts replaces the mount at ServiceAccountDir in place: if the mount were removed, the
// ServiceAccount admission plugin would add it again. The replaced volume is mounted at LocalDir.
func (c chosenContainer) injectMounts(ops *operations, subPath string, value any) {
	var first *podview.Mount
	for i := range slices.Backward(c.Mounts) {
		if c.Mounts[i].Dir != podview.ServiceAccountDir {
			continue
		}
		if first != nil {
			ops.remove(at(c.path, "/volumeMounts/", first.Index))
		}
		first = &c.Mounts[i]
	}
	switch {
	case c.MountCount == 0:
		ops.add(c.path+"/volumeMounts", []any{value})
	case first == nil:
		ops.add(c.path+"/volumeMounts/-", value)
	case !isOurs(first, subPath):
		ops.replace(at(c.path, "/volumeMounts/", first.Index), value)
	}
	if local := c.localMount(); local != nil && c.mountAt(podview.LocalDir) == nil {
		ops.add(c.path+"/volumeMounts/-", corev1.VolumeMount{Name: local.Volume, ReadOnly: local.ReadOnly, MountPath: podview.LocalDir})
	}
}

// localMount returns the mount at ServiceAccountDir that is not Keyferry's; nil if there is none.
// If there are several, the last one is returned: it is the mount of the ServiceAccount admission
// plugin, which takes paths such as one with a trailing slash for another directory.
func (c chosenContainer) localMount() *podview.Mount {
	for i := range slices.Backward(c.Mounts) {
		if m := &c.Mounts[i]; m.Dir == podview.ServiceAccountDir && m.Volume != CredentialsVolume {
			return m
		}
	}
	return nil
}

// mountAt returns the first mount at dir; nil if there is none.
func (c chosenContainer) mountAt(dir string) *podview.Mount {
	for i := range c.Mounts {
		if c.Mounts[i].Dir == dir {
			return &c.Mounts[i]
		}
	}
	return nil
}

// giveBack gives the containers that are not injected their local mount back. Injectors that run
// after Keyferry's copy the application's mount at ServiceAccountDir to their own containers, which
// need the local cluster.
func (in *injection) giveBack(ops *operations) {
	volume := ""
	for _, c := range in.chosen {
		if local := c.mountAt(podview.LocalDir); local != nil {
			volume = local.Volume
			break
		}
	}
	in.giveBackTo(in.pod.Spec.InitContainers, initContainersPath, ops, volume)
	in.giveBackTo(in.pod.Spec.Containers, containersPath, ops, volume)
}

func (in *injection) giveBackTo(containers []podview.Container, list string, ops *operations, volume string) {
	for i := range containers {
		if c := &containers[i]; !in.wants(c.Name) {
			chosenContainer{c, at(list, "/", i)}.giveBack(ops, volume)
		}
	}
}

func (c chosenContainer) giveBack(ops *operations, volume string) {
	for _, m := range slices.Backward(c.Mounts) {
		switch path := at(c.path, "/volumeMounts/", m.Index); {
		case m.Dir != podview.ServiceAccountDir || m.Volume != CredentialsVolume:
		case volume == "":
			ops.remove(path)
		default:
			ops.replace(path, corev1.VolumeMount{Name: volume, ReadOnly: true, MountPath: podview.ServiceAccountDir})
		}
	}
}

func isOurs(m *podview.Mount, subPath string) bool {
	return m.Volume == CredentialsVolume && m.Path == podview.ServiceAccountDir && m.ReadOnly && m.SubPath == subPath
}

// isInjected reports whether an earlier injection of the same kind included the container.
func (in *injection) isInjected(c chosenContainer) bool {
	return in.injected[c.Name]
}

// isDisplaced reports whether another webhook has replaced Keyferry's mount in an injected
// container. The mount of the ServiceAccount admission plugin does not count: the plugin adds it
// whenever Keyferry's mount was removed, and Keyferry replaces it again.
func (in *injection) isDisplaced(c chosenContainer, m *podview.Mount) bool {
	if m.Dir != podview.ServiceAccountDir || m.Volume == CredentialsVolume || strings.HasPrefix(m.Volume, localVolumePrefix) || !in.isInjected(c) {
		return false
	}
	local := c.mountAt(podview.LocalDir)
	return local == nil || local.Volume != m.Volume
}

// checkMounts adds a problem for each mount of a container that conflicts with Keyferry's.
func (in *injection) checkMounts(c chosenContainer, problems *problems) {
	c.checkNoProxy(problems)
	in.checkAbove(c, problems)
	in.checkLinked(c, problems)
	for i := range c.Mounts {
		m := &c.Mounts[i]
		switch {
		case m.InCredentialsDir():
			if in.several() {
				in.checkKubeconfigMount(c, m, problems)
			}
		case !in.inCluster():
			c.checkLeftover(m, problems)
		case m.IsInsideLocalDir() && c.localMount() == nil:
		case m.Dir != podview.ServiceAccountDir && m.Dir != podview.LocalDir:
			problems.add("container %s mounts volume %s at %s, but Keyferry mounts a parent directory: remove the mount, or exclude the container with annotation %s",
				c.Name, m.Volume, m.Path, AnnotationExcludeContainers)
		case in.isDisplaced(c, m):
			problems.add("container %s mounts volume %s at %s, where Keyferry had added its own mount: configure the other webhook to keep Keyferry's mount, or exclude the container with annotation %s",
				c.Name, m.Volume, m.Path, AnnotationExcludeContainers)
			return
		case m.Dir == podview.ServiceAccountDir && m.SubPath != "" && m.Volume != CredentialsVolume:
			problems.add("container %s mounts a subPath of volume %s at %s, which Keyferry would replace: remove the mount, or exclude the container with annotation %s",
				c.Name, m.Volume, m.Path, AnnotationExcludeContainers)
		}
	}
	if local, taken := c.localMount(), c.mountAt(podview.LocalDir); in.inCluster() && local != nil && taken != nil && local.Volume != taken.Volume {
		problems.add("container %s mounts volume %s at %s, which is reserved for the local service account: mount it elsewhere", c.Name, taken.Volume, taken.Path)
	}
}
