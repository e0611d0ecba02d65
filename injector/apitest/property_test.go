package apitest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keyferry/keyferry/injector"
)

// TestAnyPod checks that the API server also accepts any accepted Pod after it was injected, and
// that there is nothing more to inject then.
func TestAnyPod(t *testing.T) {
	const namespace, seed, pods = "any", 10, 400
	createNamespace(t, namespace, nil)
	random := rand.New(rand.NewPCG(seed, seed))
	invalid, refused, injected := 0, 0, 0
	for i := range pods {
		raw, err := json.Marshal(anyPod(random, namespace))
		if err != nil {
			t.Fatal(err)
		}
		stored, err := tryCreate(t, namespace, raw)
		if err != nil {
			invalid++
			continue
		}
		// Before it is stored and with all defaults: a webhook sees both.
		for _, pod := range [][]byte{raw, forCreation(t, stored)} {
			want := installation{able: random.IntN(2) == 0, plugin: random.IntN(4) == 0}
			if random.IntN(6) == 0 {
				want.audience = "tenant-1.example.com"
			}
			ops, err := want.inject(t, pod)
			if err != nil {
				refused++
				continue
			}
			if len(ops) == 0 {
				t.Errorf("seed %d, Pod %d: nothing is injected into %s", seed, i, pod)
				continue
			}
			patched := apply(t, pod, ops)
			created, err := tryCreate(t, namespace, patched)
			if err != nil {
				t.Errorf("seed %d, Pod %d: %v\n%s\nbecomes\n%s", seed, i, err, pod, patched)
				continue
			}
			for _, again := range [][]byte{patched, created} {
				if ops, err := want.inject(t, again); err != nil || len(ops) > 0 {
					t.Errorf("seed %d, Pod %d: injecting it again gives %v, %v\n%s", seed, i, ops, err, again)
				}
			}
			injected++
		}
	}
	t.Logf("%d Pods were no valid ones, %d injections were refused, %d accepted", invalid, refused, injected)
	if injected < pods/2 {
		t.Error("the property says little")
	}
}

// forCreation removes the fields that prevent a stored Pod from being created again.
func forCreation(t *testing.T, stored []byte) []byte {
	t.Helper()
	var pod map[string]any
	if err := json.Unmarshal(stored, &pod); err != nil {
		t.Fatal(err)
	}
	delete(pod, "status")
	if meta, ok := pod["metadata"].(map[string]any); ok {
		delete(meta, "uid")
		delete(meta, "managedFields")
	}
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func pick[T any](random *rand.Rand, from ...T) T { return from[random.IntN(len(from))] }

// anyPod returns a random Pod, with a preference for fields that injection changes. It may be
// invalid.
func anyPod(random *rand.Rand, namespace string) *corev1.Pod {
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "p", Namespace: namespace, Labels: map[string]string{"app": "p"},
			Annotations: anyAnnotations(random),
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "default",
			RestartPolicy:      pick(random, "", corev1.RestartPolicyAlways, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure),
			DNSPolicy:          pick(random, "", "", corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone),
			HostNetwork:        random.IntN(8) == 0,
			EnableServiceLinks: pick(random, nil, nil, new(bool)),
			SecurityContext:    pick(random, nil, &corev1.PodSecurityContext{}, &corev1.PodSecurityContext{RunAsUser: number(1000), RunAsGroup: number(3000), FSGroup: number(2000)}),
			Volumes:            anyVolumes(random),
		},
	}
	if pod.Spec.DNSPolicy == corev1.DNSNone {
		pod.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}}
	}
	if random.IntN(4) == 0 {
		pod.Spec.AutomountServiceAccountToken = pick(random, new(bool), yes())
	}
	for i := range 1 + random.IntN(3) {
		pod.Spec.Containers = append(pod.Spec.Containers, anyContainer(random, fmt.Sprintf("app-%d", i), pod.Spec.Volumes))
	}
	for i := range random.IntN(3) {
		c := anyContainer(random, pick(random, "init", "istio-proxy", "istio-init", "linkerd-proxy", "vault-agent")+"-"+strconv.Itoa(i), pod.Spec.Volumes)
		if random.IntN(2) == 0 {
			c.Name = strings.TrimSuffix(c.Name, "-"+strconv.Itoa(i))
		}
		if random.IntN(2) == 0 {
			always := corev1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		} else {
			c.ReadinessProbe = nil
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	return pod
}

func anyAnnotations(random *rand.Rand) map[string]string {
	annotations := map[string]string{injector.AnnotationCluster: "fleet/tenant-1", "example.com/x": "a\n\"b\"\\\u2028"}
	for key, values := range map[string][]string{
		injector.AnnotationDelivery:           {"auto", "direct", "proxy"},
		injector.AnnotationNamespace:          {"default", "team-a"},
		injector.AnnotationOnEndpointChange:   {"restart", "ignore"},
		injector.AnnotationContainers:         {"app-0", "app-0,app-1", "init"},
		injector.AnnotationExcludeContainers:  {"app-1"},
		injector.AnnotationClusters:           {"fleet/tenant-2", "fleet/tenant-2,other"},
		injector.AnnotationRefresherResources: {`{"requests":{"cpu":"10m"}}`, `{"limits":{"memory":"1Gi","cpu":1}}`, `{}`},
	} {
		if random.IntN(5) == 0 {
			annotations[key] = pick(random, values...)
		}
	}
	return annotations
}

func anyVolumes(random *rand.Rand) (volumes []corev1.Volume) {
	seconds := number(3600)
	for i := range random.IntN(4) {
		volumes = append(volumes, corev1.Volume{
			Name: pick(random, "data", "kube-api-access-abcde", "keyferry-own", "config") + pick(random, "", "-"+strconv.Itoa(i)),
			VolumeSource: pick(random,
				corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}},
				corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}},
				corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}},
				corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: seconds}},
				}}},
				corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
					{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				}}},
			),
		})
	}
	return volumes
}

func anyContainer(random *rand.Rand, name string, volumes []corev1.Volume) corev1.Container {
	c := corev1.Container{
		Name:  name,
		Image: "example.com/" + name + ":1",
		Args:  []string{"$(KUBERNETES_SERVICE_HOST)", "--a"},
		Env:   anyEnv(random),
		SecurityContext: pick(random, nil, nil, &corev1.SecurityContext{ReadOnlyRootFilesystem: yes(), RunAsNonRoot: yes()},
			&corev1.SecurityContext{RunAsUser: number(0), Privileged: yes()}),
	}
	if random.IntN(4) == 0 {
		c.EnvFrom = []corev1.EnvFromSource{{Prefix: pick(random, "", "KUBERNETES_"), ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}}
	}
	if random.IntN(3) == 0 {
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	}
	if random.IntN(4) == 0 {
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}}
	}
	if random.IntN(4) == 0 {
		c.Ports = []corev1.ContainerPort{{ContainerPort: pick[int32](random, 8080, 16443, 8081)}}
	}
	for _, volume := range volumes {
		if random.IntN(2) == 0 {
			continue
		}
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{
			Name:     volume.Name,
			ReadOnly: random.IntN(2) == 0,
			MountPath: pick(random, "/data/"+volume.Name, "/var/run/secrets/kubernetes.io/serviceaccount", "/var/run/secrets/kubernetes.io/serviceaccount/",
				"/var/run/secrets", "/run/secrets/kubernetes.io/serviceaccount", "/var/run/keyferry", "/var/run/secrets/keyferry.dev/local", "relative"),
			SubPath: pick(random, "", "", "", "a/b"),
		})
	}
	return c
}

func anyEnv(random *rand.Rand) (env []corev1.EnvVar) {
	for range random.IntN(5) {
		v := corev1.EnvVar{Name: pick(random, "A", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_PORT_HTTPS", "KUBECONFIG", "HTTPS_PROXY", "no_proxy", "NO_PROXY")}
		switch random.IntN(4) {
		case 0:
			v.Value = pick(random, "", "1", "$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)", "a,b", "\n'\"")
		case 1:
			v.ValueFrom = &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: pick(random, "metadata.name", "status.podIP")}}
		case 2:
			v.ValueFrom = &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}}
		default:
			v.Value = "x"
		}
		env = append(env, v)
	}
	return env
}

func number(n int64) *int64 { return &n }
func yes() *bool            { b := true; return &b }
