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

	// Where the refresher finds its volumes; its flags have the same defaults, with filesDir below the
	// first.
	identityDir = "/var/run/secrets/keyferry.dev/identity"
	proxyDir    = "/var/run/secrets/keyferry.dev/proxy"

	// Where clients find the refresher's proxy, also in Pods of IPv6 only: loopback has both. At ports
	// 80, 8080 and 8001 some would not speak TLS.
	proxyHost      = "127.0.0.1"
	proxyPort      = "16443"
	firstProxyPort = 16443

	// metricsPortName is that of AnnotationMetricsPort, for whoever scrapes by name.
	metricsPortName    = "keyferry-metric"
	exampleMetricsPort = 16400

	// identitySeconds is the life of the projected token; the kubelet renews it at 80 %.
	identitySeconds = 3600

	// One of these tells the refresher's arguments from any other's.
	targetFlag, profileFlag = "--target=", "--cluster-profile="

	// restartExitCode is what the refresher exits with for all containers to be restarted.
	restartExitCode = 42

	// refresherUser is the user that the image names itself.
	refresherUser = 65532
)

// What the chart injects by default; a test compares them with its values.
const (
	DefaultRepository = "ghcr.io/keyferry/refresher"
	DefaultPullPolicy = corev1.PullIfNotPresent
	DefaultBrokerURL  = "https://keyferry-broker.keyferry-system.svc"
)

// DefaultResources are enough for a refresher, and small enough for every Pod to have one. Both
// requests and limits are there, since a ResourceQuota refuses containers without. A refresher
// needs less than it requests, but many a LimitRange has a minimum.
func DefaultResources() json.RawMessage {
	return json.RawMessage(`{"limits":{"cpu":"500m","memory":"128Mi"},"requests":{"cpu":"10m","memory":"32Mi"}}`)
}

func (in *injection) refresherArgs() []string {
	args := append(make([]string, 0, 8), "run", "--broker="+in.cfg.BrokerURL)
	switch {
	case in.want.ClusterProfile:
		args = append(args, profileFlag+in.want.Cluster.String())
	case in.inCluster():
		args = append(args, targetFlag+in.want.Cluster.String())
	}
	if !in.pod.ResolvesServices() {
		args = append(args, "--broker-address="+in.cfg.BrokerAddress)
	}
	if port := in.want.MetricsPort; port != 0 {
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
		spread := in.cfg.RestartSpread
		if spread == 0 {
			spread = DefaultRestartSpread
		}
		args = append(args, "--on-endpoint-change=restart", "--restart-spread="+spread.String())
	}
	return slices.Concat(args, in.clusterArgs(), in.pluginArgs())
}

// waitCommand waits for the first credential or, where in-cluster stays the local cluster, only for
// what leads to the others: none of them holds back the Pod.
func (in *injection) waitCommand() []string {
	if in.inCluster() {
		return []string{"/refresher", "wait"}
	}
	return []string{"/refresher", "wait", "--kubeconfig=" + Kubeconfig}
}

// injectSidecar puts the refresher, and what it needs, before every container that needs what it
// writes. It comes after the operations on containers, whose indexes it changes.
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
		// Another webhook has since put a container before the refresher.
		for k, p := range in.present {
			if p.index != first+k {
				ops.move(at(initContainersPath, "/", p.index), at(initContainersPath, "/", first+k))
			}
		}
	}
}

// restoreSidecar brings a container to what it should be. One with other arguments is from another
// injection, of a copied Pod or by another version, and is replaced as a whole. In one with the
// same arguments another webhook has changed something.
func (in *injection) restoreSidecar(ops *operations, p presentContainer, c *container) {
	path, wanted := at(initContainersPath, "/", p.index), encodeObject(c)
	if isSidecar := c.RestartPolicy != nil; !carries(p.content["args"], wanted["args"]) || p.Sidecar && !isSidecar {
		ops.replace(path, c)
		in.noteRestored("init container", c.Name, "args")
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

// refresherIndex is first, but after the native sidecar of a mesh if that leads: once the mesh's
// init container has run, all traffic goes through it. A mesh whose proxy is an ordinary container,
// on the other hand, leaves no network to the init containers after its own, so the refresher comes
// before those.
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
		// The hook holds back whatever comes after the refresher until there is what it needs.
		Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
			Exec: &corev1.ExecAction{Command: in.waitCommand()},
		}},
		// Where it cannot write the reason of its failure, the log's end says more than nothing.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext:          in.securityContext(),
	}
	if in.delivery == targetProxy {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: ProxyVolume, MountPath: proxyDir})
	}
	if port := in.want.MetricsPort; port != 0 {
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

// container is one whose resources are JSON already, as they are the same for most: of all that is
// injected, maps of quantities would take most time to encode.
type container struct {
	corev1.Container

	Resources any `json:"resources,omitempty"`
}

// securityContext is what Pod Security restricted asks for. The user is left to the image, or the
// Pod: OpenShift refuses one that is not of the namespace's range. Only where the Pod says root,
// which runAsNonRoot would refuse to start, is it named.
func (in *injection) securityContext() *corev1.SecurityContext {
	said := &struct{ yes, no bool }{yes: true}
	sc := &corev1.SecurityContext{
		AllowPrivilegeEscalation: &said.no,
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		ReadOnlyRootFilesystem:   &said.yes,
		RunAsNonRoot:             &said.yes,
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if in.pod.Spec.RunsAsRoot {
		user := int64(refresherUser)
		sc.RunAsUser = &user
	}
	return sc
}

func (in *injection) injectVolumes(ops *operations) {
	there, missing := in.pod.Spec.Volumes, make([]any, 0, 4)
	missing = in.injectVolume(ops, missing, there.Credentials, credentialsVolume())
	missing = in.injectVolume(ops, missing, there.Identity, identityVolume(in.subjects))
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

// injectVolume replaces a volume that is there and not as it should be. It returns missing, with
// wanted if it is missing, too.
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

// credentialsVolume is in memory: a credential does not belong on a disk, and a disk would keep the
// cluster autoscaler from moving the Pod. Its size holds the largest CA bundle that a TargetCluster
// takes several times over.
func credentialsVolume() corev1.Volume {
	return corev1.Volume{Name: CredentialsVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
		Medium:    corev1.StorageMediumMemory,
		SizeLimit: resource.NewQuantity(4<<20, resource.BinarySI),
	}}}
}

// proxySize holds the credential of each target, and for some targets all CA certificates of a
// system, some 400 KB in JSON. Pods of earlier releases have releasedProxySize.
const (
	proxySize         = 16 << 20
	releasedProxySize = 1 << 20
)

// proxyVolume is only for the sidecar: with it, another container could pose as the proxy.
func proxyVolume(size int64) corev1.Volume {
	return corev1.Volume{Name: ProxyVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
		Medium:    corev1.StorageMediumMemory,
		SizeLimit: resource.NewQuantity(size, resource.BinarySI),
	}}}
}

// identityVolume has a token for the broker, and those for it to exchange.
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

// checkReserved refuses what has our names, or is in our places, and is not ours.
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
			problems.add("container %s: the name is reserved for a container that Keyferry adds: rename yours", c.Name)
		}
	}
	for _, p := range in.present {
		if in.previous == nil && !p.hasOurArgs() {
			problems.add("init container %s: the name is reserved for a container that Keyferry adds: rename yours", p.Name)
		}
	}
}

// checkSidecarVolumes refuses containers that mount what only the sidecar may read.
func (in *injection) checkSidecarVolumes(problems *problems) {
	for _, containers := range [...][]podview.Container{in.pod.Spec.InitContainers, in.pod.Spec.Containers} {
		for i := range containers {
			if c := &containers[i]; c.SidecarVolume != "" && !podview.IsOurs(c.Name) {
				problems.add("container %s mounts volume %s, which is for the sidecar only: remove the mount", c.Name, c.SidecarVolume)
			}
		}
	}
}

// checkVolumes tells volumes that Keyferry has added from others with their names.
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
			problems.add("volume %s: the name is reserved for a volume that Keyferry adds: rename yours", v.name)
		}
	}
}

func hasBrokerToken(volume object) bool {
	sources, _ := valueOf(volume["projected"], "sources").([]any)
	return slices.ContainsFunc(sources, func(source any) bool {
		return valueOf(valueOf(source, "serviceAccountToken"), "audience") == podview.Audience
	})
}

// presentContainer is an init container with a name of ours.
type presentContainer struct {
	*podview.Container

	index   int
	content object
}

// findPresent fills in.present.
func (in *injection) findPresent() {
	for i := range in.pod.Spec.InitContainers {
		if c := &in.pod.Spec.InitContainers[i]; podview.IsOurs(c.Name) {
			in.present = append(in.present, presentContainer{c, i, decodeObject(c.JSON)})
		}
	}
}

// hasOurArgs goes by the arguments, not by the image: other webhooks rewrite images to go through a
// mirror.
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
