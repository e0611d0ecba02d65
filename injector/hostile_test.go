package injector_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/keyferry/keyferry/injector"
)

// hostile are values with a special meaning in a file of variables, a URL, a header, a command
// line, a file name, YAML or JSON.
var hostile = map[string]string{
	"line end":          "a\nb",
	"line end at end":   "fleet/a\n",
	"carriage return":   "a\r\nX-Header: y",
	"single quote":      "a' b='c",
	"double quote":      `a" b="c`,
	"backquote":         "a`id`",
	"NUL":               "a\x00b",
	"parent folder":     "../../etc/passwd",
	"parent namespace":  "fleet/../a",
	"encoded slash":     "fleet%2fa",
	"encoded dots":      "fleet/%2e%2e",
	"backslash":         `fleet\a`,
	"three parts":       "fleet/a/credential",
	"query":             "fleet/a?x=y",
	"fragment":          "fleet/a#x",
	"flag":              "--broker=https://evil.example",
	"variable":          "$(HOME)",
	"shell":             "a;reboot",
	"upper case":        "Fleet/A",
	"not UTF-8":         "a\xff\xfe",
	"right to left":     "a\u202eb",
	"full-width slash":  "fleet\uff0fa",
	"blank":             "a b",
	"empty":             "",
	"empty namespace":   "/a",
	"empty name":        "fleet/",
	"long":              strings.Repeat("a", 1<<20),
	"many":              strings.Repeat("a,", 1<<19) + "a",
	"many of their own": ascending(1 << 17),
	"JSON":              `{"a":1}`,
	"nested JSON":       strings.Repeat(`{"requests":`, 1<<16),
	"nested lists":      strings.Repeat("[", 1<<18),
	"YAML aliases":      "a: &a [*a, *a]",
	"huge quantity":     `{"requests":{"cpu":"1E2147483647"},"limits":{"cpu":"1"}}`,
	"hidden quantity":   `{"requests":{"cpu":"1\u00452147483647"},"limits":{"cpu":"1"}}`,
	"large quantity":    `{"requests":{"cpu":1234567890123456789012e2000000000},"limits":{"cpu":"1"}}`,
	"tiny quantity":     `{"requests":{"cpu":"1e-2147483647"},"limits":{"cpu":"1"}}`,
	"exact quantity":    `{"limits":{"cpu":"0.` + strings.Repeat("0", 1<<16) + `1"}}`,
}

func ascending(n int) string {
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "a%d,", i)
	}
	return all.String() + "z"
}

var (
	options = []string{
		injector.AnnotationCluster, injector.AnnotationClusterProfile, injector.AnnotationClusters, injector.AnnotationCredentialRequest,
		injector.AnnotationContainers, injector.AnnotationExcludeContainers, injector.AnnotationDelivery, injector.AnnotationNamespace,
		injector.AnnotationOnEndpointChange, injector.AnnotationRefresherResources, injector.AnnotationSetKubeconfig,
	}
	harmless = regexp.MustCompile(`^[a-z0-9.-]*$`)
)

// TestHostileValues checks that hostile values of annotations are denied with a readable message of
// one line, and that accepted values contain only names.
func TestHostileValues(t *testing.T) {
	for _, key := range options {
		for name, value := range hostile {
			t.Run(strings.TrimPrefix(key, injector.Prefix)+"/"+name, func(t *testing.T) {
				annotations := map[string]string{injector.AnnotationCluster: "fleet/tenant-1"}
				annotations[key] = value
				got, err := injector.ParseAnnotations(annotations, "shop")
				if err != nil {
					wantReadable(t, err)
					return
				}
				for _, taken := range slices.Concat(got.Containers, got.ExcludeContainers, []string{got.Cluster.Namespace, got.Cluster.Name, got.Namespace}) {
					if !harmless.MatchString(taken) {
						t.Errorf("%q is taken", taken)
					}
				}
				for _, cluster := range got.Clusters {
					if !harmless.MatchString(cluster.Namespace + cluster.Name) {
						t.Errorf("%v is taken", cluster)
					}
				}
				if got.RefresherResources != nil {
					t.Errorf("resources %v are taken", got.RefresherResources)
				}
			})
		}
	}
}

// TestHostileNames checks the same for hostile names of annotations, which the API server has not
// validated.
func TestHostileNames(t *testing.T) {
	for name, key := range hostile {
		t.Run(name, func(t *testing.T) {
			_, err := injector.ParseAnnotations(map[string]string{injector.Prefix + key: "fleet/tenant-1"}, "shop")
			if err == nil {
				t.Fatal("it is taken")
			}
			wantReadable(t, err)
		})
	}
	t.Run("as many as fit", func(t *testing.T) {
		annotations := map[string]string{}
		for i := range 1 << 16 {
			annotations[fmt.Sprintf("%s%d", injector.Prefix, i)] = ""
		}
		_, err := injector.ParseAnnotations(annotations, "shop")
		if err == nil || !strings.HasSuffix(err.Error(), "; and more") {
			t.Errorf("got %.200v", err)
		}
		wantReadable(t, err)
	})
}

func wantReadable(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	if len(text) > 8000 {
		t.Errorf("%d bytes: %.200s", len(text), text)
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("not printable: %.500q", text)
	}
}

// TestHugePods checks that the largest Pods that fit into a request are handled in linear time.
// (With quadratic time, this test would take hours.)
func TestHugePods(t *testing.T) {
	const many = 20000
	list := func(of func(int) any) []any {
		all := make([]any, many)
		for i := range all {
			all[i] = of(i)
		}
		return all
	}
	object := func(pairs ...any) map[string]any {
		o := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			o[pairs[i].(string)] = pairs[i+1]
		}
		return o
	}
	named := func(format string) func(int) any {
		return func(i int) any { return object("name", fmt.Sprintf(format, i)) }
	}
	container := func(field string, of func(int) any) map[string]any {
		return object("containers", []any{object("name", "app", field, list(of))})
	}
	for name, spec := range map[string]map[string]any{
		"containers":      object("containers", list(named("c%d"))),
		"init containers": object("containers", []any{object("name", "app")}, "initContainers", list(named("c%d"))),
		"volumes":         object("containers", []any{object("name", "app")}, "volumes", list(named("v%d"))),
		"variables":       container("env", named("A%d")),
		"same variable":   container("env", named("KUBERNETES_SERVICE_HOST")),
		"mounts":          container("volumeMounts", func(i int) any { return object("name", "v", "mountPath", fmt.Sprintf("/m%d", i)) }),
		"same mount": container("volumeMounts", func(int) any {
			return object("name", "v", "mountPath", "/var/run/secrets/kubernetes.io/serviceaccount")
		}),
		"deep mounts": container("volumeMounts", func(int) any { return object("name", "v", "mountPath", strings.Repeat("/.", 50)) }),
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := json.Marshal(object("metadata", object("name", "p", "annotations", object("keyferry.dev/cluster", "fleet/tenant-1")), "spec", spec))
			if err != nil {
				t.Fatal(err)
			}
			result, err := defaultInstallation().inject(raw)
			if err != nil {
				wantReadable(t, err)
			} else if len(result.Operations) == 0 {
				t.Error("nothing is injected")
			}
		})
	}
	t.Run("nested", func(t *testing.T) {
		const depth = 1 << 18
		deep := `{"metadata":{"annotations":{"keyferry.dev/cluster":"a"}},"spec":` + strings.Repeat(`{"x":[`, depth) + strings.Repeat("]}", depth) + "}"
		if _, err := injector.DecodePod([]byte(deep)); err == nil {
			t.Error("it is a Pod")
		}
	})
}

// TestLargestPods checks that Pods which a cluster can store are injected, although they have as
// many containers as possible, or long lists and texts. etcd stores up to 1.5 MiB.
func TestLargestPods(t *testing.T) {
	const size = 1400 << 10
	list := func(n int, element string) string {
		elements := make([]string, n)
		for i := range elements {
			elements[i] = strings.ReplaceAll(element, "%d", strconv.Itoa(i))
		}
		return "[" + strings.Join(elements, ",") + "]"
	}
	const variable, mount, port = `{"name":"VARIABLE_%d","value":"%d"}`, `{"name":"v","mountPath":"/data/%d"}`, `{"containerPort":1%d}`
	for name, spec := range map[string]string{
		"containers": `"initContainers":` + list(200, `{"name":"i%d","env":`+list(20, `{"name":"A","value":"b"}`)+`}`) +
			`,"containers":` + list(200, `{"name":"c%d","env":[{"name":"KUBERNETES_SERVICE_HOST","value":"a"},{"name":"NO_PROXY","value":".svc"}],`+
			`"volumeMounts":[{"name":"kube-api-access-a","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"},{"name":"v","mountPath":"/var"}]}`),
		"lists": `"volumes":` + list(5000, `{"name":"v%d","emptyDir":{}}`) + `,"containers":[{"name":"app","env":` + list(10000, variable) +
			`,"volumeMounts":` + list(10000, mount) + `,"ports":` + list(5000, port) + `}]`,
		"texts": `"containers":[{"name":"app","args":["` + strings.Repeat("a", size/2) + `"],"env":[{"name":"NO_PROXY","value":"` + strings.Repeat("a,", 60<<10) +
			`"},{"name":"A","value":"` + strings.Repeat("a", size/3) + `"}]}]`,
	} {
		t.Run(name, func(t *testing.T) {
			raw := `{"metadata":{"name":"p","annotations":{"keyferry.dev/cluster":"fleet/tenant-1","a":"` + strings.Repeat("a", 200<<10) + `"}},"spec":{` + spec + `}}`
			result, err := defaultInstallation().inject([]byte(raw))
			if err != nil || len(result.Operations) == 0 {
				t.Errorf("%d operations, %v", len(result.Operations), err)
			}
		})
	}
}
