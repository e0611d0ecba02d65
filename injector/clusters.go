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
	// Kubeconfig is the path of the kubeconfig in Pods with several clusters. It has a context for
	// each cluster.
	Kubeconfig = podview.CredentialsDir + "/kubeconfig"

	// maxClusters limits the memory that the refresher's proxies need.
	maxClusters = 16
	// furtherPort is the port of the proxy for the first of the further clusters. The next ports are
	// those of the next clusters.
	furtherPort = 16444
	// clusterFlag begins the refresher's argument for a further cluster.
	clusterFlag = "--cluster="
)

// ClusterDir returns the directory of a further cluster's files. If the cluster has no credential,
// the file problem in it contains the reason.
func ClusterDir(cluster types.NamespacedName) string {
	return path.Join(podview.CredentialsDir, "clusters", cluster.Namespace, cluster.Name)
}

func parseClusters(value, podNamespace string) ([]types.NamespacedName, error) {
	if given := strings.Count(value, ",") + 1; given > maxClusters {
		return nil, fmt.Errorf("names %d TargetClusters, but at most %d are allowed: use several Pods", given, maxClusters)
	}
	names := strings.Split(value, ",")
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

// checkClusters adds a problem for each annotation that contradicts AnnotationClusters, or that
// needs an annotation which the Pod does not have.
func (a Annotations) checkClusters(annotations map[string]string, problems *problems) {
	has := func(key string) bool { _, ok := annotations[key]; return ok }
	if !has(AnnotationClusters) {
		if has(AnnotationSetKubeconfig) {
			problems.add("annotation %s has no effect without %s: remove it", AnnotationSetKubeconfig, AnnotationClusters)
		}
		return
	}
	if a.Cluster.Name != "" && !a.CredentialRequest && slices.Contains(a.Clusters, a.Cluster) {
		problems.add("annotations %s and %s both contain %s, and their contexts would have the same name: remove the TargetCluster from annotation %s",
			a.ClusterAnnotation(), AnnotationClusters, a.Cluster, AnnotationClusters)
	}
	if a.Delivery == DeliveryDirect {
		problems.add("annotation %s: %s is not possible together with %s, because all contexts use the proxy: use %s, or remove the annotation",
			AnnotationDelivery, DeliveryDirect, AnnotationClusters, DeliveryProxy)
	}
	if has(AnnotationCluster) || has(AnnotationClusterProfile) || has(AnnotationCredentialRequest) {
		return
	}
	for _, key := range []string{AnnotationNamespace, AnnotationOnEndpointChange} {
		if has(key) {
			problems.add("annotation %s has no effect without %s, because in-cluster clients use the local cluster: remove the annotation, or add a TargetCluster with annotation %s",
				key, AnnotationCluster, AnnotationCluster)
		}
	}
}

// inCluster reports whether the Pod's in-cluster clients use another cluster.
func (in *injection) inCluster() bool { return in.requested.Cluster.Name != "" }

// several reports whether the Pod gets a kubeconfig.
func (in *injection) several() bool { return len(in.requested.Clusters) > 0 }

// clusterNames returns the names of all clusters of the Pod, for messages.
func (in *injection) clusterNames() string {
	names := make([]string, 0, 1+len(in.requested.Clusters))
	if in.inCluster() {
		names = append(names, in.requested.Cluster.String())
	}
	for _, name := range in.requested.Clusters {
		names = append(names, name.String())
	}
	return strings.Join(names, ", ")
}

// checkFurther adds a problem for each further cluster that a refresher cannot serve.
func (in *injection) checkFurther(problems *problems) {
	for i, further := range in.target.Further {
		name := "TargetCluster " + in.requested.Clusters[i].String()
		switch {
		case further.Federation.Audience != "":
			problems.add("annotation %s: %s is federated, so a sidecar cannot connect to it: use a separate Pod with annotation %s, or a TargetCluster with another spec.issue.type, such as TokenRequest",
				AnnotationClusters, name, AnnotationCluster)
		case further.Plugin != nil:
			problems.add("annotation %s: %s runs a plugin in the Pod, which only annotation %s supports: set the TargetCluster there, or set its spec.access.exec.runIn to Broker",
				AnnotationClusters, name, AnnotationCluster)
		}
	}
}

// decideSubjects adds a projected token for each target whose provider exchanges a token of the
// Pod. Targets with the same audience have a token each, too: then the file's path alone tells the
// refresher which token is for which target. The kubelet requests only one token for each audience.
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
	subject(in.requested.Cluster, in.target.SubjectAudience, podview.SubjectTokenPath)
	for i, further := range in.target.Further {
		name := in.requested.Clusters[i]
		subject(name, further.SubjectAudience, path.Join(podview.SubjectTokensDir, name.Namespace, name.Name))
	}
}

// clusterArgs returns the refresher's arguments for the further clusters: the address of the proxy
// for each cluster, and the namespace of its context.
func (in *injection) clusterArgs() []string {
	args := make([]string, len(in.requested.Clusters))
	for i, name := range in.requested.Clusters {
		args[i] = clusterFlag + name.String() + "@" + proxyHost + ":" + strconv.Itoa(furtherPort+i) + "/" + in.target.Further[i].Namespace
	}
	return args
}

// contextNamespace returns the namespace to pass to the refresher; empty leaves it to the
// TargetCluster. The kubeconfig never changes, so in a Pod with a kubeconfig the file namespace is
// fixed, too.
func (in *injection) contextNamespace() string {
	if in.several() {
		return cmp.Or(in.requested.Namespace, in.target.Namespace)
	}
	return in.requested.Namespace
}

// mountKubeconfig mounts the credentials volume at CredentialsDir. If the Pod has an in-cluster
// target, its mounts have to be added before.
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

// setsKubeconfig reports whether a container gets the variable KUBECONFIG.
func (in *injection) setsKubeconfig(c chosenContainer) bool {
	return in.requested.SetKubeconfig && !slices.ContainsFunc(c.Env, isKubeconfig)
}

func isKubeconfig(e podview.Env) bool { return e.Name == podview.EnvKubeconfig }

// leadsElsewhere reports whether a variable makes clients read another kubeconfig than Kubeconfig.
func (in *injection) leadsElsewhere(e podview.Env) bool {
	return isKubeconfig(e) && (!in.several() || e.Value != Kubeconfig)
}

// checkKubeconfigMount adds a problem if a mount conflicts with that of the kubeconfig.
func (in *injection) checkKubeconfigMount(c chosenContainer, m *podview.Mount, problems *problems) {
	if isKubeconfigMount(m) || in.previous != nil && m.Volume == CredentialsVolume && m.Path == podview.CredentialsDir {
		return
	}
	problems.add("container %s mounts volume %s at %s, but Keyferry mounts the kubeconfig of annotation %s there: remove the mount, or exclude the container with annotation %s",
		c.Name, m.Volume, m.Path, AnnotationClusters, AnnotationExcludeContainers)
}

func isKubeconfigMount(m *podview.Mount) bool {
	return m.Volume == CredentialsVolume && m.Path == podview.CredentialsDir && m.ReadOnly && m.SubPath == ""
}

// checkLeftover adds a problem if a copied Pod has a mount of an earlier injection for an
// in-cluster target. The directory would contain the files of neither cluster.
func (c chosenContainer) checkLeftover(m *podview.Mount, problems *problems) {
	if m.Dir == podview.ServiceAccountDir && m.Volume == CredentialsVolume {
		problems.add("container %s mounts volume %s at %s, but without annotation %s in-cluster clients use the local cluster: remove the mount; if the Pod is a copy of an injected Pod, remove everything that Keyferry added",
			c.Name, m.Volume, m.Path, AnnotationCluster)
	}
}

// hostNetworkProblem returns the error for a Pod on the host network that needs delivery by proxy.
func (in *injection) hostNetworkProblem() error {
	if in.several() {
		return errors.New("spec.hostNetwork is true, but annotation " + AnnotationClusters + " needs ports that no other Pod on the node uses: set spec.hostNetwork to false, or remove the annotation")
	}
	return fmt.Errorf("spec.hostNetwork is true, but delivery by proxy (%s) needs a port that no other Pod on the node uses: set spec.hostNetwork to false, or set annotation %s to %s and use a TargetCluster that supports this delivery",
		in.deliveryReason, AnnotationDelivery, DeliveryDirect)
}

// sharedProcessesProblem returns the error for a Pod with delivery by proxy whose containers see
// the sidecar's processes. Through /proc, a container with the sidecar's UID, or with the
// permission to trace processes, can read the sidecar's files and memory, and so the target's
// credential.
func (in *injection) sharedProcessesProblem(field string) error {
	const reads = "other containers can read the target's credential from the sidecar's processes"
	if in.several() {
		return fmt.Errorf("spec.%s is true and annotation %s is set, so %s: set spec.%s to false, or remove the annotation", field, AnnotationClusters, reads, field)
	}
	return fmt.Errorf("spec.%s is true and the delivery is by proxy (%s), so %s: set spec.%s to false, or set annotation %s to %s and use a TargetCluster that supports this delivery",
		field, in.deliveryReason, reads, field, AnnotationDelivery, DeliveryDirect)
}
