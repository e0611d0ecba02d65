package injector_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/injector"
)

const (
	inClusterDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	localVolume  = "kube-api-access-x7k2p"
)

// applications are the containers of testdata/replay/app.yaml.
var applications = []string{"migrate", "app", "helper"}

// TestOtherInjectors checks injection together with other injectors, in both orders: applications
// use the target, the other injector's containers use the local cluster, and the resulting Pod is
// the same. Like the API server, the test calls Keyferry's webhook again after another webhook has
// changed the Pod.
func TestOtherInjectors(t *testing.T) {
	app := readJSON(t, "testdata/replay/app.yaml")
	ours := injectedFirst(t, app)
	compare(t, "testdata/replay/app.keyferry.yaml", json.RawMessage(ours))
	for name, other := range otherInjectors(t, app, ours) {
		t.Run(name, func(t *testing.T) {
			before, after := injectedAgain(t, other.alone), injectedAgain(t, other.afterOurs)
			wantServed(t, before)
			wantServed(t, after)
			for _, find := range []func(*corev1.Pod) map[string]corev1.Container{containersOf, sidecarsOf} {
				if one, another := find(before), find(after); !apiequality.Semantic.DeepEqual(one, another) {
					t.Errorf("the order makes a difference: before ours\n%s\nafter it\n%s", asYAML(t, one), asYAML(t, another))
				}
			}
			if one, another := volumesOf(before), volumesOf(after); !slices.Equal(one, another) {
				t.Errorf("the order makes a difference: before ours volumes %q, after it %q", one, another)
			}
		})
	}
}

// others contains the Pods that another injector returns if it runs first, and if it runs after
// Keyferry.
type others struct{ alone, afterOurs []byte }

// otherInjectors returns the Pods of Istio's injector (see tools/replay), and of stand-ins for
// injectors that cannot be imported as a module. The stand-ins make only the changes that matter
// here.
func otherInjectors(t *testing.T, app, ours []byte) map[string]others {
	t.Helper()
	all := map[string]others{}
	for name, inject := range map[string]func(*corev1.Pod){
		"vault": vault(false), "vault, first": vault(true), "linkerd": linkerd(false), "linkerd, native": linkerd(true),
	} {
		all[name] = others{changed(t, app, inject), changed(t, ours, inject)}
	}
	recorded, err := filepath.Glob("testdata/replay/*/app.yaml")
	if err != nil {
		t.Fatal("no recorded Pods", err)
	}
	for _, file := range recorded {
		dir := filepath.Dir(file)
		all[filepath.Base(dir)] = others{readJSON(t, file), readJSON(t, filepath.Join(dir, "app.keyferry.yaml"))}
	}
	return all
}

// vault adds the mount that it finds at a path with "serviceaccount" in the first container with
// one to its own container, and a volume for secrets to all containers
// (github.com/hashicorp/vault-k8s, agent-inject/agent).
func vault(first bool) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		secrets := corev1.VolumeMount{Name: "vault-secrets", MountPath: "/vault/secrets"}
		agent := corev1.Container{
			Image: "hashicorp/vault:1", Command: []string{"/bin/sh", "-ec"}, VolumeMounts: []corev1.VolumeMount{copiedMount(pod), {Name: "home", MountPath: "/home/vault"}, secrets},
		}
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				list[i].VolumeMounts = append(list[i].VolumeMounts, secrets)
			}
		}
		at := len(pod.Spec.InitContainers)
		if first {
			at = 0
		}
		pod.Spec.InitContainers = slices.Insert(pod.Spec.InitContainers, at, named(agent, "vault-agent-init"))
		pod.Spec.Containers = append(pod.Spec.Containers, named(agent, "vault-agent"))
		addMemoryVolumes(pod, "home", "vault-secrets")
	}
}

// linkerd adds the application's ServiceAccount mount to its proxy (github.com/linkerd/linkerd2,
// pkg/inject). A native proxy is the first container.
func linkerd(native bool) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		mounts := []corev1.VolumeMount{{Name: "linkerd-identity-end-entity", MountPath: "/var/run/linkerd/identity/end-entity"}, copiedMount(pod)}
		setUp := corev1.Container{Name: "linkerd-init", Image: "cr.l5d.io/linkerd/proxy-init:1", VolumeMounts: mounts[1:]}
		proxy := corev1.Container{Name: "linkerd-proxy", Image: "cr.l5d.io/linkerd/proxy:1", VolumeMounts: mounts}
		if native {
			always := corev1.ContainerRestartPolicyAlways
			proxy.RestartPolicy = &always
			pod.Spec.InitContainers = slices.Insert(pod.Spec.InitContainers, 0, setUp, proxy)
		} else {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, setUp)
			pod.Spec.Containers = append(pod.Spec.Containers, proxy)
		}
		addMemoryVolumes(pod, "linkerd-identity-end-entity")
	}
}

// copiedMount returns the application's mount as these injectors copy it, without the subPath.
func copiedMount(pod *corev1.Pod) corev1.VolumeMount {
	for _, m := range pod.Spec.Containers[0].VolumeMounts {
		if strings.Contains(m.MountPath, "serviceaccount") {
			return corev1.VolumeMount{Name: m.Name, MountPath: m.MountPath, ReadOnly: true}
		}
	}
	panic("nothing is mounted there")
}

func named(c corev1.Container, name string) corev1.Container {
	c.Name = name
	return c
}

func addMemoryVolumes(pod *corev1.Pod, names ...string) {
	for _, name := range names {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}})
	}
}

// changed changes a Pod like another injector.
func changed(t *testing.T, raw []byte, change func(*corev1.Pod)) []byte {
	t.Helper()
	pod := decoded(t, raw)
	change(pod)
	out, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func decoded(t *testing.T, raw []byte) *corev1.Pod {
	t.Helper()
	pod := new(corev1.Pod)
	if err := json.Unmarshal(raw, pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func asYAML(t *testing.T, value any) []byte {
	t.Helper()
	text, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func injectedFirst(t *testing.T, raw []byte) []byte {
	t.Helper()
	result, err := defaultInstallation().inject(raw)
	if err != nil {
		t.Fatal(err)
	}
	return apply(t, raw, result.Operations)
}

// injectedAgain injects a Pod again, and checks that a further injection changes nothing.
func injectedAgain(t *testing.T, raw []byte) *corev1.Pod {
	t.Helper()
	injected := injectedFirst(t, raw)
	if again, err := defaultInstallation().inject(injected); err != nil || len(again.Operations) > 0 {
		t.Errorf("another injection gives %v, %v", again.Operations, err)
	}
	return decoded(t, injected)
}

// wantServed checks that only applications use the target, and that they start after the sidecar
// that writes their files.
func wantServed(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	sidecar := slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == injector.RefresherContainer })
	for i, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		env := len(c.Env) >= 3 && c.Env[0].Name == "KUBERNETES_SERVICE_HOST" && c.Env[0].ValueFrom != nil
		at := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == inClusterDir })
		switch {
		case c.Name == injector.RefresherContainer:
		case slices.Contains(applications, c.Name):
			if !env || at < 0 || c.VolumeMounts[at].Name != injector.CredentialsVolume || c.VolumeMounts[at].SubPath == "" || i < sidecar {
				t.Errorf("container %s, number %d, finds not the target: variables %v, mounts %v", c.Name, i, c.Env, c.VolumeMounts)
			}
		case env || at >= 0 && c.VolumeMounts[at].Name != localVolume:
			t.Errorf("container %s does not find the local cluster: variables %v, mounts %v", c.Name, c.Env, c.VolumeMounts)
		}
	}
}

func containersOf(pod *corev1.Pod) map[string]corev1.Container { return byName(pod.Spec.Containers) }
func sidecarsOf(pod *corev1.Pod) map[string]corev1.Container   { return byName(pod.Spec.InitContainers) }

// byName returns the containers by name, with their mounts sorted by path.
func byName(list []corev1.Container) map[string]corev1.Container {
	all := map[string]corev1.Container{}
	for _, c := range list {
		slices.SortFunc(c.VolumeMounts, func(a, b corev1.VolumeMount) int { return strings.Compare(a.MountPath, b.MountPath) })
		if c.Name == injector.RefresherContainer {
			c.VolumeMounts = slices.DeleteFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return !strings.HasPrefix(m.Name, "keyferry-") })
		}
		all[c.Name] = c
	}
	return all
}

func volumesOf(pod *corev1.Pod) []string {
	var names []string
	for _, v := range pod.Spec.Volumes {
		names = append(names, v.Name)
	}
	slices.Sort(names)
	return names
}

// TestReplayIsCurrent checks that the recorded Pods are from the version that tools/replay pins.
func TestReplayIsCurrent(t *testing.T) {
	pinned, err := os.ReadFile("../tools/replay/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/replay/*/*.yaml")
	if err != nil || len(files) != 4 {
		t.Fatalf("recorded are %q (error %v)", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(text), "\n")
		version := strings.TrimSuffix(strings.TrimPrefix(line, "# Made by tools/replay with "), ".")
		if version == line || !strings.Contains(string(pinned), version+"\n") {
			t.Errorf("%s says %q, which is not in tools/replay/go.mod", file, line)
		}
	}
}
