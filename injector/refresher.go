package injector

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/keyferry/keyferry/injector/podview"
)

const (
	initContainersPath = "/spec/initContainers"
	containersPath     = "/spec/containers"

	// Where the refresher mounts its volumes. Its flags have the same defaults.
	identityDir = "/var/run/secrets/keyferry.dev/identity"
	proxyDir    = "/var/run/secrets/keyferry.dev/proxy"

	// The address of the refresher's proxy. Pods with only IPv6 also have the IPv4 loopback address.
	// At the ports 80, 8080 and 8001, some clients would not use TLS.
	proxyHost      = "127.0.0.1"
	proxyPort      = "16443"
	firstProxyPort = 16443

	// metricsPortName is the name of the container port of AnnotationMetricsPort, for scrape
	// configurations that select ports by name.
	metricsPortName    = "keyferry-metric"
	exampleMetricsPort = 16400

	// identitySeconds is the lifetime of the projected tokens. The kubelet renews them after 80 % of
	// it.
	identitySeconds = 3600

	// The refresher has one of these arguments, or clusterFlag. hasOurArgs recognizes it by them.
	targetFlag, profileFlag = "--target=", "--cluster-profile="

	// restartExitCode is the exit code of the refresher that makes the kubelet restart all containers.
	restartExitCode = 42

	// refresherUser is the user of the refresher's image.
	refresherUser = 65532
)

// Defaults of the chart. A test compares them with its values.
const (
	DefaultRepository = "ghcr.io/keyferry/refresher"
	DefaultPullPolicy = corev1.PullIfNotPresent
	DefaultBrokerURL  = "https://keyferry-broker.keyferry-system.svc"
)

// DefaultResources returns the default resources of the refresher. It has requests and limits,
// because a ResourceQuota can reject containers without them. The refresher needs less memory than
// it requests, but many a LimitRange has a minimum.
func DefaultResources() json.RawMessage {
	return json.RawMessage(`{"limits":{"cpu":"500m","memory":"128Mi"},"requests":{"cpu":"10m","memory":"32Mi"}}`)
}

func (in *injection) refresherArgs() []string {
	args := append(make([]string, 0, 8), "run", "--broker="+in.cfg.BrokerURL)
	switch {
	case in.requested.ClusterProfile:
		args = append(args, profileFlag+in.requested.Cluster.String())
	case in.inCluster():
		args = append(args, targetFlag+in.requested.Cluster.String())
	}
	if !in.pod.ResolvesServices() {
		args = append(args, "--broker-address="+in.cfg.BrokerAddress)
	}
	if port := in.requested.MetricsPort; port != 0 {
		args = append(args, "--health-address=:"+strconv.Itoa(int(port)))
	}
	if !in.inCluster() {
		return append(args, in.clusterArgs()...)
	}
	if namespace := in.contextNamespace(); namespace != "" {
		args = append(args, "--namespace="+namespace)
	}
	proxied := in.delivery == targetProxy
	if proxied {
		args = append(args, "--delivery=proxy", "--proxy-address="+proxyHost+":"+proxyPort)
	}
	switch {
	case !in.restart && proxied:
		args = append(args, "--on-endpoint-change=ignore")
	case !in.restart:
		args = append(args, "--on-endpoint-change=ignore", "--endpoint="+in.target.Endpoint)
	default:
		args = append(args, "--on-endpoint-change=restart", "--restart-spread="+in.cfg.RestartSpread.String())
	}
	return slices.Concat(args, in.clusterArgs(), in.pluginArgs())
}

// waitCommand returns the command that waits until the refresher has the first credential. If
// in-cluster clients use the local cluster, it waits only for the kubeconfig, so that no further
// cluster delays the start of the Pod.
func (in *injection) waitCommand() []string {
	if in.inCluster() {
		return []string{"/refresher", "wait"}
	}
	return []string{"/refresher", "wait", "--kubeconfig=" + Kubeconfig}
}

// injectSidecar adds the refresher and its init containers before all containers that read its
// files. It must run after the operations on the Pod's containers, because it changes their
// indexes.
func (in *injection) injectSidecar(ops *operations) {
	inits := in.pod.Spec.InitContainers
	first := in.refresherIndex()
	if !slices.EqualFunc(in.present, in.sidecar, func(p presentContainer, c *container) bool { return p.Name == c.Name }) {
		for _, p := range slices.Backward(in.present) {
			ops.remove(at(initContainersPath, "/", p.index))
		}
		in.addSidecar(ops, len(inits) == 0, first)
		return
	}
	for k, p := range in.present {
		in.restoreSidecar(ops, p, in.sidecar[k])
	}
	if slices.ContainsFunc(inits[:in.present[len(in.present)-1].index], func(c podview.Container) bool { return in.wants(c.Name) }) {
		// Another webhook has since added a container before the refresher.
		for k, p := range in.present {
			if p.index != first+k {
				ops.move(at(initContainersPath, "/", p.index), at(initContainersPath, "/", first+k))
			}
		}
	}
}

// restoreSidecar restores one of Keyferry's containers. If the arguments differ, the container
// comes from a copied Pod or another version, and is replaced as a whole. Otherwise another webhook
// has changed some of its fields.
func (in *injection) restoreSidecar(ops *operations, p presentContainer, c *container) {
	path, wanted := at(initContainersPath, "/", p.index), encodeObject(c)
	if isSidecar := c.RestartPolicy != nil; !carries(p.content["args"], wanted["args"]) || p.Sidecar && !isSidecar {
		ops.replace(path, c)
		in.noteRestored("init container", c.Name)
		return
	}
	if restored := restoreContainer(ops, path, p.content, wanted, in.namesResource); len(restored) > 0 {
		in.noteRestored("init container", c.Name, restored...)
	}
}

func (in *injection) addSidecar(ops *operations, alone bool, first int) {
	for _, c := range in.sidecar {
		in.noteRestored("init container", c.Name)
	}
	if alone {
		all := make([]any, len(in.sidecar))
		for k, c := range in.sidecar {
			all[k] = c
		}
		ops.add(initContainersPath, all)
		return
	}
	for k, c := range in.sidecar {
		ops.add(at(initContainersPath, "/", first+k), c)
	}
}

// refresherIndex returns 0, or the index after the native sidecar of a service mesh, if that is
// first: once the init container of the mesh has run, all traffic goes through the mesh. If the
// proxy of the mesh is an ordinary container, the init containers after that of the mesh have no
// network, so the refresher comes before it.
func (in *injection) refresherIndex() int {
	index := 0
	for i, c := range in.pod.Spec.InitContainers {
		if !isProxy(c.Name) || in.wants(c.Name) {
			break
		}
		if c.Sidecar {
			index = i + 1
		}
	}
	return index
}

func (in *injection) refresher() *container {
	always := corev1.ContainerRestartPolicyAlways
	c := corev1.Container{
		Name:            RefresherContainer,
		Image:           in.cfg.Image,
		ImagePullPolicy: in.cfg.ImagePullPolicy,
		Command:         []string{"/refresher"},
		Args:            in.refresherArgs(),
		RestartPolicy:   &always,
		VolumeMounts: []corev1.VolumeMount{
			{Name: CredentialsVolume, MountPath: podview.CredentialsDir},
			{Name: IdentityVolume, MountPath: identityDir, ReadOnly: true},
		},
		// The hook delays the next containers until the refresher has written the files.
		Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
			Exec: &corev1.ExecAction{Command: in.waitCommand()},
		}},
		// If the refresher cannot write a termination message, the end of its log shows the reason.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext:          in.securityContext(),
	}
	if in.delivery == targetProxy {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: ProxyVolume, MountPath: proxyDir})
	}
	if port := in.requested.MetricsPort; port != 0 {
		c.Ports = []corev1.ContainerPort{{Name: metricsPortName, ContainerPort: port, Protocol: corev1.ProtocolTCP}}
	}
	if p := in.target.Plugin; p != nil {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: PluginVolume, MountPath: pluginDir, ReadOnly: true})
		c.Env = p.env()
	}
	if in.restart {
		c.RestartPolicyRules = []corev1.ContainerRestartRule{{
			Action: corev1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{
				Operator: corev1.ContainerRestartRuleOnExitCodesOpIn,
				Values:   []int32{restartExitCode},
			},
		}}
	}
	return &container{c, in.resources}
}

// container is a container whose resources are already JSON: they are the same for most Pods, and
// encoding the maps of quantities would take longer than encoding everything else.
type container struct {
	corev1.Container

	Resources any `json:"resources,omitempty"`
}

// securityContext satisfies the Pod Security level restricted. It leaves the user to the image or
// the Pod, because OpenShift rejects users outside the range of the namespace. If the Pod's user is
// root, it sets the user: with runAsNonRoot, the container would not start.
func (in *injection) securityContext() *corev1.SecurityContext {
	if !in.pod.Spec.RunsAsRoot {
		return &restricted
	}
	withUser, user := restricted, int64(refresherUser)
	withUser.RunAsUser = &user
	return &withUser
}

// All Pods share these values, so that a Pod needs no memory for them. Nothing changes them.
var (
	restricted = corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		ReadOnlyRootFilesystem:   new(true),
		RunAsNonRoot:             new(true),
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	plainIdentity = identityVolume(nil)
)

func (in *injection) injectVolumes(ops *operations) {
	there, missing := in.pod.Spec.Volumes, make([]any, 0, 4)
	missing = in.injectVolume(ops, missing, there.Credentials, credentialsVolume())
	identity := plainIdentity
	if len(in.subjects) > 0 {
		identity = identityVolume(in.subjects)
	}
	missing = in.injectVolume(ops, missing, there.Identity, identity)
	if in.delivery == targetProxy {
		missing = in.injectVolume(ops, missing, there.Proxy, proxyVolume(proxySize))
	}
	if in.target.Plugin != nil {
		missing = in.injectVolume(ops, missing, there.Plugin, in.pluginVolume())
	}
	if there.Count == 0 {
		ops.add("/spec/volumes", missing)
		return
	}
	for _, volume := range missing {
		ops.add("/spec/volumes/-", volume)
	}
}

// injectVolume replaces the volume there if it differs from wanted. If the Pod has no such volume,
// it returns missing with wanted appended.
func (in *injection) injectVolume(ops *operations, missing []any, there podview.Volume, wanted corev1.Volume) []any {
	switch {
	case there.JSON == nil:
		missing = append(missing, wanted)
	case !isSameVolume(decodeObject(there.JSON), wanted):
		ops.replace(at("/spec/volumes", "/", there.Index), wanted)
	default:
		return missing
	}
	in.noteRestored("volume", wanted.Name)
	return missing
}

func isSameVolume(have object, wanted corev1.Volume) bool {
	if wanted.Image != nil {
		return isSameImage(valueOf(have["image"], "reference"), wanted.Image.Reference)
	}
	return carries(have, encodeObject(wanted)) || wanted.Name == ProxyVolume && carries(have, encodeObject(proxyVolume(releasedProxySize)))
}

// credentialsVolume is in memory: credentials should not be on a disk, and the cluster autoscaler
// does not evict Pods with a volume on the node's disk. The size is several times that of the
// largest CA bundle that a TargetCluster accepts.
func credentialsVolume() corev1.Volume {
	return corev1.Volume{Name: CredentialsVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
		Medium:    corev1.StorageMediumMemory,
		SizeLimit: resource.NewQuantity(4<<20, resource.BinarySI),
	}}}
}

// proxySize is enough for the credentials of all targets, and for targets that need all CA
// certificates of a system (some 400 KB as JSON). Pods of earlier releases have releasedProxySize.
const (
	proxySize         = 16 << 20
	releasedProxySize = 1 << 20
)

// proxyVolume is only mounted in the sidecar: a container that reads it could impersonate the
// proxy.
func proxyVolume(size int64) corev1.Volume {
	return corev1.Volume{Name: ProxyVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
		Medium:    corev1.StorageMediumMemory,
		SizeLimit: resource.NewQuantity(size, resource.BinarySI),
	}}}
}

// identityVolume contains the Pod's token for the broker, the broker's CA, and the tokens that the
// providers exchange.
func identityVolume(subjects []podview.SubjectToken) corev1.Volume {
	seconds := int64(identitySeconds)
	token := func(audience, path string) corev1.VolumeProjection {
		return corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience, ExpirationSeconds: &seconds, Path: path}}
	}
	sources := []corev1.VolumeProjection{
		token(podview.Audience, "token"),
		{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: TrustConfigMap},
			Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
		}},
	}
	for _, subject := range subjects {
		sources = append(sources, token(subject.Audience, subject.Path))
	}
	return corev1.Volume{Name: IdentityVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}}
}

// checkReserved adds a problem for each container, volume or mount that conflicts with Keyferry's.
func (in *injection) checkReserved(problems *problems) {
	for _, c := range in.chosen {
		in.checkMounts(c, problems)
	}
	switch {
	case in.federated():
		in.checkFederation(problems)
		return
	case in.fromSecret():
		in.checkSecret(problems)
		return
	}
	in.checkVolumes(problems)
	in.checkSidecarVolumes(problems)
	for i := range in.pod.Spec.Containers {
		if c := &in.pod.Spec.Containers[i]; podview.IsOurs(c.Name) {
			problems.add("container %s: the name is reserved for a container that Keyferry adds: rename your container", c.Name)
		}
	}
	for _, p := range in.present {
		if in.previous == nil && !p.hasOurArgs() {
			problems.add("init container %s: the name is reserved for a container that Keyferry adds: rename your container", p.Name)
		}
	}
}

// checkSidecarVolumes adds a problem for each container that mounts a volume of the sidecar.
func (in *injection) checkSidecarVolumes(problems *problems) {
	for _, containers := range [...][]podview.Container{in.pod.Spec.InitContainers, in.pod.Spec.Containers} {
		for i := range containers {
			if c := &containers[i]; c.SidecarVolume != "" && !podview.IsOurs(c.Name) {
				problems.add("container %s mounts volume %s, which only Keyferry's sidecar may mount: remove the mount", c.Name, c.SidecarVolume)
			}
		}
	}
}

// checkVolumes adds a problem for each volume that has a name of Keyferry's and is not Keyferry's.
func (in *injection) checkVolumes(problems *problems) {
	if in.previous != nil {
		return
	}
	volumes := in.pod.Spec.Volumes
	inMemory := func(volume object) bool {
		return valueOf(volume["emptyDir"], "medium") == string(corev1.StorageMediumMemory)
	}
	for _, v := range [...]struct {
		name   string
		volume podview.Volume
		isOurs func(object) bool
	}{
		{CredentialsVolume, volumes.Credentials, inMemory},
		{IdentityVolume, volumes.Identity, hasBrokerToken},
		{ProxyVolume, volumes.Proxy, inMemory},
		{PluginVolume, volumes.Plugin, func(volume object) bool { return volume["image"] != nil || volume["emptyDir"] != nil }},
	} {
		if v.volume.JSON != nil && !v.isOurs(decodeObject(v.volume.JSON)) {
			problems.add("volume %s: the name is reserved for a volume that Keyferry adds: rename your volume", v.name)
		}
	}
}

func hasBrokerToken(volume object) bool {
	sources, _ := valueOf(volume["projected"], "sources").([]any)
	return slices.ContainsFunc(sources, func(source any) bool {
		return valueOf(valueOf(source, "serviceAccountToken"), "audience") == podview.Audience
	})
}

// presentContainer is an init container of the Pod with a name of Keyferry's.
type presentContainer struct {
	*podview.Container

	index   int
	content object
}

// findPresent sets in.present.
func (in *injection) findPresent() {
	for i := range in.pod.Spec.InitContainers {
		if c := &in.pod.Spec.InitContainers[i]; podview.IsOurs(c.Name) {
			in.present = append(in.present, presentContainer{c, i, decodeObject(c.JSON)})
		}
	}
}

// hasOurArgs reports whether a container is Keyferry's. It compares arguments and not the image,
// because other webhooks rewrite images to pull them through a mirror.
func (p presentContainer) hasOurArgs() bool {
	args, _ := p.content["args"].([]any)
	if p.Name != RefresherContainer {
		return !p.Sidecar && len(args) == 3 && args[0] == copyCommand
	}
	return slices.ContainsFunc(args, func(arg any) bool {
		text, _ := arg.(string)
		return strings.HasPrefix(text, targetFlag) || strings.HasPrefix(text, profileFlag) || strings.HasPrefix(text, clusterFlag)
	})
}
