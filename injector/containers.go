package injector

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/injector/podview"
)

const (
	// filesDir is the directory of the credentials volume that the files are in, and a directory of
	// the refresher's own. The volume's root is none: a tmpfs is writable for everybody and sticky,
	// and there the kernel (fs.protected_symlinks) follows a symlink only for the user that made it,
	// so containers with another user than the refresher's could not read.
	filesDir = "serviceaccount"
	// envFile is the file that env comes from.
	envFile = filesDir + "/env"
	// localVolumePrefix begins the names of the volumes that the ServiceAccount admission plugin adds.
	localVolumePrefix = "kube-api-access-"
)

// proxies are the containers of other injectors that are at work for this cluster, with this
// cluster's credentials: what in-cluster means for the application is not for them. They are
// injected only if the Pod names them.
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

// executors are the containers that Argo Workflows adds to its Pods. They report results to the
// local cluster. Other Pods may have containers with these names.
var executors = [...]string{"init", "wait"}

// isLocal reports whether a container keeps the local cluster unless the Pod names it.
func (in *injection) isLocal(name string) bool {
	return isProxy(name) || in.pod.Metadata.IsWorkflow && slices.Contains(executors[:], name)
}

// chosenContainer is a container to inject, and where it is.
type chosenContainer struct {
	*podview.Container
	path string // such as /spec/containers/0
}

// wants reports whether a container is to be injected.
func (in *injection) wants(name string) bool {
	switch {
	case podview.IsOurs(name) || slices.Contains(in.want.ExcludeContainers, name):
		return false
	case in.want.Containers != nil:
		return slices.Contains(in.want.Containers, name)
	default:
		return !in.isLocal(name)
	}
}

// choose fills in.chosen. A container to inject that the Pod lacks is denied: with a typo in its
// name the one that is meant would act on the local cluster. One to exclude may be added by a later
// webhook.
func (in *injection) choose(problems *problems) {
	for _, name := range in.want.Containers {
		if !in.pod.HasContainer(name) {
			problems.add("annotation %s: the Pod has no container %q: use some of %s", AnnotationContainers, name, in.pod.ContainerNames())
		}
	}
	in.chosen = make([]chosenContainer, 0, len(in.pod.Spec.InitContainers)+len(in.pod.Spec.Containers))
	in.chooseFrom(in.pod.Spec.InitContainers, initContainersPath)
	in.chooseFrom(in.pod.Spec.Containers, containersPath)
	if len(in.chosen) == 0 && len(*problems) == 0 {
		problems.add("no container is left to inject: name one in annotation %s, or remove annotation %s", AnnotationContainers, in.want.ClusterAnnotation())
	}
}

func (in *injection) chooseFrom(containers []podview.Container, list string) {
	for i := range containers {
		if in.wants(containers[i].Name) {
			in.chosen = append(in.chosen, chosenContainer{Container: &containers[i], path: at(list, "/", i)})
		}
	}
}

// environment returns the variables that in-cluster clients find their API server by: fromFile they
// follow what the refresher writes at each start of the container.
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
	// Boxed once: they are the same for every container.
	var env [len(in.env)]any
	for i := range env {
		env[i] = in.env[i]
	}
	want := corev1.VolumeMount{Name: CredentialsVolume, ReadOnly: true, MountPath: podview.ServiceAccountDir}
	if in.hasSidecar() {
		want.SubPath = filesDir
	}
	var mount any = want
	for _, c := range in.chosen {
		var except exceptions
		if in.delivery == targetProxy {
			except = c.exceptLoopback()
		}
		except.replace(ops)
		if in.inCluster() {
			c.injectEnv(ops, in.env[:], env[:])
			c.injectMounts(ops, want.SubPath, mount)
		}
		in.addEnv(ops, c, except)
		if in.several() {
			in.mountKubeconfig(ops, c)
		}
	}
	if in.inCluster() {
		in.giveBack(ops)
	}
}

// addEnv adds the variables that in-cluster clients do not read, after those that they do.
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

// injectEnv puts want first in the list: an entry before them that refers to
// $(KUBERNETES_SERVICE_HOST) would get the local one, and of entries with the same name the last
// one wins, so the container's own go.
func (c chosenContainer) injectEnv(ops *operations, want []corev1.EnvVar, boxed []any) {
	if c.EnvCount == 0 {
		ops.add(c.path+"/env", boxed)
		return
	}
	if c.hasEnv(want) {
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

// hasEnv reports whether want is first in the list already, and nowhere else.
func (c chosenContainer) hasEnv(want []corev1.EnvVar) bool {
	found := 0
	for i := range c.Env {
		e := &c.Env[i]
		switch {
		case e.Name == podview.EnvKubeconfig:
		case e.Index < len(want) && same(e, &want[e.Index]):
			found++
		default:
			return false
		}
	}
	return found == len(want)
}

func same(e *podview.Env, want *corev1.EnvVar) bool {
	var fileKey corev1.FileKeySelector
	var configMapKey corev1.ConfigMapKeySelector
	var secretKey corev1.SecretKeySelector
	switch from := want.ValueFrom; {
	case from == nil:
	case from.FileKeyRef != nil:
		fileKey = *from.FileKeyRef
	case from.ConfigMapKeyRef != nil:
		configMapKey = *from.ConfigMapKeyRef
	case from.SecretKeyRef != nil:
		secretKey = *from.SecretKeyRef
	}
	return e.Name == want.Name && e.Value == want.Value && e.FileKey == fileKey && e.ConfigMapKey == configMapKey && e.SecretKey == secretKey
}

// injectMounts replaces what is mounted at ServiceAccountDir, in place: the ServiceAccount
// admission plugin adds a mount again that is gone. What it has been replaced by stays to be had at
// LocalDir.
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

// localMount returns what is mounted at ServiceAccountDir and is not ours; nil if nothing is. The
// plugin's own mount is the last one, if one before it has a path that the plugin does not know to
// be the same.
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

// giveBack undoes what other injectors do that come after ours: they give their own containers what
// they find mounted at ServiceAccountDir in the application's. These containers are at work for
// this cluster.
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

// isInjected reports whether an earlier injection of the same kind was of the container, too.
func (in *injection) isInjected(c chosenContainer) bool {
	return in.previous != nil && slices.Contains(in.previous.Containers, c.Name)
}

// isDisplaced reports whether the mount of an injected container is in the place of ours. That of
// the ServiceAccount admission plugin is there whenever ours was removed, and gives way.
func (in *injection) isDisplaced(c chosenContainer, m *podview.Mount) bool {
	if m.Dir != podview.ServiceAccountDir || m.Volume == CredentialsVolume || strings.HasPrefix(m.Volume, localVolumePrefix) || !in.isInjected(c) {
		return false
	}
	local := c.mountAt(podview.LocalDir)
	return local == nil || local.Volume != m.Volume
}

// checkMounts refuses what cannot be had together with ours.
func (in *injection) checkMounts(c chosenContainer, problems *problems) {
	c.checkNoProxy(problems)
	in.checkAbove(c, problems)
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
			problems.add("container %s mounts volume %s at %s, inside what Keyferry mounts: remove the mount, or exclude the container with annotation %s",
				c.Name, m.Volume, m.Path, AnnotationExcludeContainers)
		case in.isDisplaced(c, m):
			problems.add("container %s mounts volume %s at %s, where another webhook has put it in place of Keyferry's: keep that webhook from it, or exclude the container with annotation %s",
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
