package injector

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector/podview"
)

const (
	// Kubeconfig is where clients find a context for each cluster, if the Pod asks for several.
	Kubeconfig = podview.CredentialsDir + "/kubeconfig"

	// maxClusters keeps the proxies within what a refresher has of memory.
	maxClusters = 16
	// furtherPort is the port of the second cluster's proxy; those of the others follow.
	furtherPort = 16444
	// clusterFlag tells the refresher's arguments from any other's.
	clusterFlag = "--cluster="
)

// ClusterDir is where the refresher keeps the files of a further cluster, and in the file problem
// why it has no credential.
func ClusterDir(cluster types.NamespacedName) string {
	return path.Join(podview.CredentialsDir, "clusters", cluster.Namespace, cluster.Name)
}

func parseClusters(value, podNamespace string) ([]types.NamespacedName, error) {
	names := strings.Split(value, ",")
	if len(names) > maxClusters {
		return nil, fmt.Errorf("names %d TargetClusters, more than %d: spread them over several Pods", len(names), maxClusters)
	}
	clusters := make([]types.NamespacedName, len(names))
	for i, name := range names {
		var err error
		if clusters[i], err = parseCluster(strings.TrimSpace(name), podNamespace, "TargetCluster"); err != nil {
			return nil, err
		}
		if slices.Contains(clusters[:i], clusters[i]) {
			return nil, fmt.Errorf("names %s twice: remove one of them", clusters[i])
		}
	}
	return clusters, nil
}

func parseSetKubeconfig(value string) (bool, error) {
	if value != "true" && value != "false" {
		return false, fmt.Errorf("%.100q is not valid: use true or false", value)
	}
	return value == "true", nil
}

// checkClusters refuses what the annotations of a Pod cannot say together with AnnotationClusters,
// or without it.
func (a Annotations) checkClusters(annotations map[string]string, problems *problems) {
	has := func(key string) bool { _, ok := annotations[key]; return ok }
	if !has(AnnotationClusters) {
		if has(AnnotationSetKubeconfig) {
			problems.add("annotation %s says nothing without %s: remove it", AnnotationSetKubeconfig, AnnotationClusters)
		}
		return
	}
	if a.Cluster.Name != "" && !a.CredentialRequest && slices.Contains(a.Clusters, a.Cluster) {
		problems.add("annotations %s and %s both name %s, and their contexts would have the same name: remove it from %s",
			a.ClusterAnnotation(), AnnotationClusters, a.Cluster, AnnotationClusters)
	}
	if a.Delivery == DeliveryDirect {
		problems.add("annotation %s: %s is not possible together with %s, whose contexts all lead through the proxy: use %s, or remove it",
			AnnotationDelivery, DeliveryDirect, AnnotationClusters, DeliveryProxy)
	}
	if has(AnnotationCluster) || has(AnnotationClusterProfile) || has(AnnotationCredentialRequest) {
		return
	}
	for _, key := range []string{AnnotationNamespace, AnnotationOnEndpointChange} {
		if has(key) {
			problems.add("annotation %s says nothing without %s, as in-cluster stays the local cluster: remove it, or name a TargetCluster with %s",
				key, AnnotationCluster, AnnotationCluster)
		}
	}
}

// inCluster reports whether in-cluster means another cluster for the Pod.
func (in *injection) inCluster() bool { return in.want.Cluster.Name != "" }

// several reports whether the Pod gets a kubeconfig.
func (in *injection) several() bool { return len(in.want.Clusters) > 0 }

// clusterNames are the names of all clusters of the Pod, for messages.
func (in *injection) clusterNames() string {
	names := make([]string, 0, 1+len(in.want.Clusters))
	if in.inCluster() {
		names = append(names, in.want.Cluster.String())
	}
	for _, name := range in.want.Clusters {
		names = append(names, name.String())
	}
	return strings.Join(names, ", ")
}

// checkFurther refuses further clusters that a refresher cannot serve.
func (in *injection) checkFurther(problems *problems) {
	for i, further := range in.target.Further {
		name := "TargetCluster " + in.want.Clusters[i].String()
		switch {
		case further.Federation.Audience != "":
			problems.add("annotation %s: %s is federated, and its Pods have no sidecar that could lead to it: give it a Pod of its own with annotation %s, or use a TargetCluster with another spec.issue.type, such as TokenRequest",
				AnnotationClusters, name, AnnotationCluster)
		case further.Plugin != nil:
			problems.add("annotation %s: %s has a plugin run in the Pod, where only that of %s can be: name it there, or set its spec.access.exec.runIn to Broker",
				AnnotationClusters, name, AnnotationCluster)
		}
	}
}

// decideSubjects gives each target whose provider exchanges one a token of its own, also where two
// have the same audience: the kubelet asks for one token then, and the refresher need not be told
// which is whose.
func (in *injection) decideSubjects() {
	subject := func(cluster types.NamespacedName, audience, path string) {
		if audience == "" {
			return
		}
		if in.audiences == nil {
			in.audiences = make(map[string]string)
		}
		in.audiences[cluster.String()] = audience
		in.subjects = append(in.subjects, podview.SubjectToken{Path: path, Audience: audience})
	}
	subject(in.want.Cluster, in.target.SubjectAudience, podview.SubjectTokenPath)
	for i, further := range in.target.Further {
		name := in.want.Clusters[i]
		subject(name, further.SubjectAudience, path.Join(podview.SubjectTokensDir, name.Namespace, name.Name))
	}
}

// clusterArgs are the refresher's arguments for the further clusters: where the proxy to each is,
// and the namespace of its context.
func (in *injection) clusterArgs() []string {
	args := make([]string, len(in.want.Clusters))
	for i, name := range in.want.Clusters {
		args[i] = clusterFlag + name.String() + "@" + proxyHost + ":" + strconv.Itoa(furtherPort+i) + "/" + in.target.Further[i].Namespace
	}
	return args
}

// contextNamespace is what the refresher is told of the first cluster's namespace. With a
// kubeconfig, which never changes, the file namespace does not either.
func (in *injection) contextNamespace() string {
	if in.several() {
		return cmp.Or(in.want.Namespace, in.target.Namespace)
	}
	return in.want.Namespace
}

// mountKubeconfig comes after the operations on what in-cluster clients find, if the Pod has those.
func (in *injection) mountKubeconfig(ops *operations, c chosenContainer) {
	mount := corev1.VolumeMount{Name: CredentialsVolume, ReadOnly: true, MountPath: podview.CredentialsDir}
	switch there := c.mountAt(podview.CredentialsDir); {
	case there != nil && isKubeconfigMount(there):
	case there != nil:
		ops.replace(at(c.path, "/volumeMounts/", there.Index), mount)
	case c.MountCount == 0 && !in.inCluster():
		ops.add(c.path+"/volumeMounts", []any{mount})
	default:
		ops.add(c.path+"/volumeMounts/-", mount)
	}
}

// setsKubeconfig reports whether a container gets the variable.
func (in *injection) setsKubeconfig(c chosenContainer) bool {
	return in.want.SetKubeconfig && !slices.ContainsFunc(c.Env, isKubeconfig)
}

func isKubeconfig(e podview.Env) bool { return e.Name == podview.EnvKubeconfig }

// leadsElsewhere reports whether a variable makes clients read another kubeconfig than the Pod's.
func (in *injection) leadsElsewhere(e podview.Env) bool {
	return isKubeconfig(e) && (!in.several() || e.Value != Kubeconfig)
}

// checkKubeconfigMount refuses what is in the place of the kubeconfig.
func (in *injection) checkKubeconfigMount(c chosenContainer, m *podview.Mount, problems *problems) {
	if isKubeconfigMount(m) || in.previous != nil && m.Volume == CredentialsVolume && m.Path == podview.CredentialsDir {
		return
	}
	problems.add("container %s mounts volume %s at %s, where Keyferry mounts the kubeconfig of annotation %s: remove the mount, or exclude the container with annotation %s",
		c.Name, m.Volume, m.Path, AnnotationClusters, AnnotationExcludeContainers)
}

func isKubeconfigMount(m *podview.Mount) bool {
	return m.Volume == CredentialsVolume && m.Path == podview.CredentialsDir && m.ReadOnly && m.SubPath == ""
}

// checkLeftover refuses what an injection of another kind has left in a copied Pod: in-cluster
// would be neither cluster.
func (c chosenContainer) checkLeftover(m *podview.Mount, problems *problems) {
	if m.Dir == podview.ServiceAccountDir && m.Volume == CredentialsVolume {
		problems.add("container %s mounts volume %s at %s, and without annotation %s in-cluster stays the local cluster: if the Pod is a copy of one that Keyferry has injected, create it without what Keyferry has added",
			c.Name, m.Volume, m.Path, AnnotationCluster)
	}
}

// hostNetworkProblem says why a Pod cannot have proxies.
func (in *injection) hostNetworkProblem() error {
	if in.several() {
		return errors.New("spec.hostNetwork is true, and the contexts of annotation " + AnnotationClusters + " lead through ports that no other Pod of the node has: set it to false, or remove the annotation")
	}
	return fmt.Errorf("spec.hostNetwork is true, and delivery by proxy (%s) needs a port that no other Pod of the node has: set it to false, or use a TargetCluster and annotation %s that allow %s",
		in.deliveryReason, AnnotationDelivery, DeliveryDirect)
}

// sharedProcessesProblem denies delivery by proxy where containers see the sidecar's processes.
// Through /proc, a container with the sidecar's UID, or with the right to trace processes, reads
// the files and the memory of the sidecar, and so the target's credential.
func (in *injection) sharedProcessesProblem(field string) error {
	const reads = "other containers can read the target's credential from the sidecar's processes"
	if in.several() {
		return fmt.Errorf("spec.%s is true, and with annotation %s %s: set it to false, or remove the annotation", field, AnnotationClusters, reads)
	}
	return fmt.Errorf("spec.%s is true, and with delivery by proxy (%s) %s: set it to false, or use a TargetCluster and annotation %s that allow %s",
		field, in.deliveryReason, reads, AnnotationDelivery, DeliveryDirect)
}
