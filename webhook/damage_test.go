package webhook

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/injector/podview"
	"github.com/keyferry/keyferry/internal/testenv"
)

// harmless are fields of an injected Pod that another webhook may remove or change last. The Pod
// works, or it does not start and shows the reason. Fields below an entry are harmless, too.
var harmless = []string{
	"sidecar image", // may be behind a mirror
	"sidecar resources",
	"sidecar securityContext",
	"sidecar terminationMessagePolicy",
	"sidecar ports",
	"sidecar env", // the plugin's
	"sidecar args",
	"sidecar lifecycle postStart exec command 0",
	"sidecar lifecycle postStart exec command 2",
	"sidecar restartPolicyRules 0",
	"sidecar volumeMounts /var/run/secrets/keyferry.dev/identity readOnly",
	"sidecar volumeMounts /opt/keyferry/plugin readOnly",
	"copier image",
	"copier args",
	"copier command 0",
	"copier resources",
	"copier securityContext",
	"copier terminationMessagePolicy",
	"container env KUBECONFIG value",
	"container env NO_PROXY", // connections to the sidecar use the HTTP proxy, and fail
	"container env no_proxy",
	"container volumeMounts /var/run/secrets/keyferry.dev/local",
	"container env NAME valueFrom configMapKeyRef key",
	"container env NAME valueFrom fileKeyRef key",
	"container env NAME valueFrom fileKeyRef path",
	"container env NAME valueFrom secretKeyRef key",
	"volume keyferry-credentials emptyDir sizeLimit",
	"volume keyferry-credentials projected",
	"volume keyferry-identity projected sources",
	"volume keyferry-plugin emptyDir",
	"volume keyferry-plugin image reference",
	"volume keyferry-proxy emptyDir sizeLimit",
}

// testGuardDeniesDamaged removes and changes each field that injection has written. The Pod is
// denied by the guard or the API server, or the field is harmless.
func testGuardDeniesDamaged(t *testing.T) {
	met := map[string]bool{}
	pods := goldenPods(t)
	for _, name := range []string{
		"all-options", "clusters", "clusters-only", "federated", "literal-env", "literal-env-ipv6", "minimal",
		"needs-proxy", "plugin-copied", "plugin-image", "secret", "subject-token",
	} {
		golden := pods["inject/"+name+".golden.yaml"]
		if err := api.client.Create(t.Context(), golden.DeepCopy(), client.DryRunAll); err != nil {
			if testenv.Has(testenv.EnvFromFile) {
				t.Errorf("%s: %v", name, err)
			}
			continue // an old API server cannot have such a Pod
		}
		for _, field := range injectedFields(golden) {
			generic := genericName(field)
			row := slices.IndexFunc(harmless, func(h string) bool { return generic == h || strings.HasPrefix(generic, h+" ") })
			for what, edit := range map[string]func(any) any{"removed": func(any) any { return nil }, "changed": differing} {
				content, ok := edited("", golden.DeepCopy().Object, field, edit).(map[string]any)
				if !ok {
					t.Fatal("no Pod")
				}
				err := api.client.Create(t.Context(), &unstructured.Unstructured{Object: content}, client.DryRunAll)
				switch {
				case err != nil:
				case row >= 0:
					met[harmless[row]] = true
				default:
					t.Errorf("%s: %s may be %s (%s)", name, strings.Join(field, " "), what, generic)
				}
			}
		}
	}
	for _, row := range harmless {
		if !met[row] && testenv.Has(testenv.EnvFromFile) {
			t.Errorf("all damages of %s are denied: remove it from the list", row)
		}
	}
}

// keys are the members that identify the elements of a list.
var keys = map[string]string{
	"containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath",
}

// members returns the names and values below a value, in order. name is the name of the value.
func members(name string, value any) (names []string, values map[string]any) {
	switch value := value.(type) {
	case map[string]any:
		return slices.Sorted(maps.Keys(value)), value
	case []any:
		values = map[string]any{}
		for i, element := range value {
			child := strconv.Itoa(i)
			if key := keys[name]; key != "" {
				if member, ok := element.(map[string]any); ok {
					child = fmt.Sprint(member[key])
				}
			}
			names, values[child] = append(names, child), element
		}
	}
	return names, values
}

// injectedFields returns the paths of the fields that injection has written.
func injectedFields(pod *unstructured.Unstructured) (fields [][]string) {
	inCluster := slices.ContainsFunc([]string{injector.AnnotationCluster, injector.AnnotationClusterProfile, injector.AnnotationCredentialRequest},
		func(annotation string) bool { return pod.GetAnnotations()[annotation] != "" })
	var walk func(name string, value any, isInjected bool, path ...string)
	walk = func(name string, value any, isInjected bool, path ...string) {
		names, values := members(name, value)
		for _, child := range names {
			below := append(slices.Clone(path), child)
			isInjected := isInjected || isAdded(below, values[child], inCluster)
			if isInjected {
				fields = append(fields, below)
			}
			walk(child, values[child], isInjected, below...)
		}
	}
	walk("spec", pod.Object["spec"], false, "spec")
	return fields
}

// isAdded reports whether injection has added the element of a list at path. inCluster reports
// whether the Pod's in-cluster clients use another cluster.
func isAdded(path []string, value any, inCluster bool) bool {
	element, _ := value.(map[string]any)
	switch {
	case len(path) == 3:
		return strings.HasPrefix(path[2], "keyferry-")
	case len(path) != 5:
		return false
	case path[3] == "volumeMounts":
		return element["name"] == injector.CredentialsVolume || path[4] == podview.LocalDir
	case path[3] == "env" && path[4] == "KUBECONFIG":
		return element["value"] == injector.Kubeconfig
	case path[3] == "env" && strings.EqualFold(path[4], podview.EnvNoProxy):
		return true
	case path[3] == "env":
		return inCluster && slices.Contains(strings.Split(allVariables, ", "), path[4])
	default:
		return false
	}
}

// genericName replaces names in a path that differ between Pods.
func genericName(path []string) string {
	kind, rest := "container", path[3:]
	switch {
	case path[1] == "volumes":
		kind = "volume " + path[2]
	case path[2] == injector.RefresherContainer:
		kind = "sidecar"
	case strings.HasPrefix(path[2], "keyferry-"):
		kind = "copier"
	}
	name := strings.TrimSpace(kind + " " + strings.Join(rest, " "))
	for _, env := range []string{"KUBERNETES_SERVICE_PORT_HTTPS", "KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_HOST"} {
		name = strings.Replace(name, env, "NAME", 1)
	}
	return name
}

// edited returns value with the field at path changed by edit, which returns nil to remove it.
func edited(name string, value any, path []string, edit func(any) any) any {
	if len(path) == 0 {
		return edit(value)
	}
	switch value := value.(type) {
	case map[string]any:
		if value[path[0]] = edited(path[0], value[path[0]], path[1:], edit); value[path[0]] == nil {
			delete(value, path[0])
		}
		return value
	case []any:
		names, _ := members(name, value)
		i := slices.Index(names, path[0])
		if value[i] = edited(path[0], value[i], path[1:], edit); value[i] == nil {
			return slices.Delete(value, i, i+1)
		}
		return value
	default:
		panic("no such field: " + path[0])
	}
}

// differing returns another value of the same type. It removes objects and lists.
func differing(value any) any {
	switch value := value.(type) {
	case string:
		return value + "x"
	case bool:
		return !value
	case json.Number, int64, float64:
		return int64(7)
	default:
		return nil
	}
}
