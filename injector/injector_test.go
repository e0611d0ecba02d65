package injector_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/injector"
)

var update = flag.Bool("update", false, "write the golden files anew")

// installation contains the inputs of an injection; change modifies them for a test case.
type installation struct {
	target injector.Target
	config injector.Config
}

func defaultInstallation() installation {
	return installation{
		target: injector.Target{Endpoint: "https://203.0.113.7:6443", Delivery: "Direct", DeliveryReason: "in-cluster clients can express the endpoint"},
		config: injector.Config{
			Image:         "ghcr.io/keyferry/refresher:v0.1.0",
			Resources:     json.RawMessage(`{"limits":{"cpu":"200m","memory":"64Mi"},"requests":{"cpu":"5m","memory":"16Mi"}}`),
			BrokerURL:     "https://keyferry-broker.keyferry-system.svc",
			BrokerAddress: "10.96.4.2",
			EnvFromFile:   true,
			RestartSpread: injector.DefaultRestartSpread,
			Version:       "v0.1.0",
		},
	}
}

var change = map[string]func(*installation){
	"literal-env":          func(i *installation) { i.config.EnvFromFile = false },
	"existing-env-literal": func(i *installation) { i.config.EnvFromFile = false },
	"restart-impossible":   func(i *installation) { i.config.EnvFromFile = false },
	"literal-env-ipv6": func(i *installation) {
		i.config.EnvFromFile = false
		i.target.Endpoint = "https://[2001:db8::7]"
	},
	"dns-default-no-address": func(i *installation) { i.config.BrokerAddress = "" },
	"several-problems":       func(i *installation) { i.config.BrokerAddress = "" },
	"needs-proxy": func(i *installation) {
		i.target.Delivery, i.target.DeliveryReason = "Proxy", "spec.endpoint.proxyURL is set"
	},
	"direct-impossible": func(i *installation) {
		i.target.Delivery, i.target.DeliveryReason = "Proxy", "spec.endpoint.proxyURL is set"
	},
	"subject-token": func(i *installation) { i.target.SubjectAudience = "sts.example.com" },
	"plugin-image":  func(i *installation) { i.target.Plugin, i.config.ImageVolume = plugin(), true },
	"plugin-plain": func(i *installation) {
		i.target.Plugin, i.config.ImageVolume = &injector.Plugin{Image: "example.com/plain:1", Command: "/plain", APIVersion: "client.authentication.k8s.io/v1"}, true
	},
	"plugin-copied":      func(i *installation) { i.target.Plugin = plugin() },
	"plugin-copied-mesh": func(i *installation) { i.target.Plugin = plugin() },
	"plugin-copied-root": func(i *installation) { i.target.Plugin = plugin() },
	"plugin-proxy": func(i *installation) {
		i.target.Plugin, i.config.ImageVolume = plugin(), true
		i.target.Delivery, i.target.DeliveryReason = "Proxy", "in-cluster clients do not support the path /k8s of the server"
	},
	"clusters-plugin": func(i *installation) { i.target.Plugin, i.config.ImageVolume = plugin(), true },
	"clusters-impossible": func(i *installation) {
		i.target.Further = []injector.Target{
			{Federation: injector.Federation{Audience: "federated.example.com"}}, {Plugin: plugin()},
		}
	},
	"clusters-subject-tokens": func(i *installation) {
		i.target.SubjectAudience = "sts.example.com"
		i.target.Further = []injector.Target{
			{Namespace: "default", SubjectAudience: "api://other"}, {Namespace: "default"}, {Namespace: "default", SubjectAudience: "sts.example.com"},
		}
	},
	"plugin-reserved":    func(i *installation) { i.target.Plugin = plugin() },
	"proxy-literal":      func(i *installation) { i.config.EnvFromFile = false },
	"endpoint-with-path": func(i *installation) { i.target.Endpoint = "https://rancher.example.com/k8s/clusters/c-1" },
}

// plugin returns a plugin with all fields set, and with text that must not be expanded.
func plugin() *injector.Plugin {
	return &injector.Plugin{
		Image:              "example.com/secretreader@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		Command:            "/bin/secretreader",
		Args:               []string{"--cluster", "$(HOME)", "--quiet"},
		Env:                []corev1.EnvVar{{Name: "READER_ROLE", Value: "a$(b)"}},
		APIVersion:         "client.authentication.k8s.io/v1beta1",
		ProvideClusterInfo: true,
	}
}

func installationOf(name string) installation {
	i := defaultInstallation()
	if f, ok := change[name]; ok {
		f(&i)
	}
	if strings.HasPrefix(name, "federated") {
		i.target.Federation = injector.Federation{Audience: "tenant-1.example.com", Duration: &metav1.Duration{Duration: 20 * time.Minute}}
		i.config.BrokerAddress = "" // nobody asks it
	}
	if strings.HasPrefix(name, "secret") {
		i.target = injector.Target{Secret: "tenant-1"}
		i.config.BrokerAddress = ""
	}
	return i
}

// inject injects a Pod like an admission.
func (i installation) inject(raw []byte) (injector.Result, error) {
	pod, err := injector.DecodePod(raw)
	if err != nil {
		return injector.Result{}, err
	}
	want, err := injector.ParseAnnotations(pod.Metadata.Annotations, pod.Metadata.Namespace)
	if err != nil {
		return injector.Result{}, err
	}
	if want.Cluster.Name == "" {
		i.target = injector.Target{Further: i.target.Further}
	}
	if i.target.Namespace = "default"; i.target.Further == nil {
		i.target.Further = slices.Repeat([]injector.Target{{Namespace: "default"}}, len(want.Clusters))
	}
	return injector.Inject(pod, want, i.target, i.config)
}

// apply applies operations like the API server.
func apply(t testing.TB, raw []byte, ops []injector.Operation) []byte {
	t.Helper()
	if len(ops) == 0 {
		return raw
	}
	encoded, err := json.Marshal(ops)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(encoded)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := patch.Apply(raw)
	if err != nil {
		t.Fatalf("applying %s: %v", encoded, err)
	}
	return patched
}

type golden struct {
	Error      string               `json:"error,omitempty"`
	Warnings   []string             `json:"warnings,omitempty"`
	Operations []injector.Operation `json:"operations,omitempty"`
	Pod        json.RawMessage      `json:"pod,omitempty"`
}

// cases returns the Pods in testdata as JSON, by name.
func cases(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/inject/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	pods := make(map[string][]byte)
	for _, file := range files {
		if strings.HasSuffix(file, ".golden.yaml") {
			continue
		}
		pods[strings.TrimSuffix(filepath.Base(file), ".yaml")] = readJSON(t, file)
	}
	for name := range change {
		if pods[name] == nil {
			t.Errorf("no Pod for case %s", name)
		}
	}
	return pods
}

func readJSON(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return raw
}

func TestGolden(t *testing.T) {
	for name, raw := range cases(t) {
		t.Run(name, func(t *testing.T) {
			result, err := installationOf(name).inject(raw)
			got := golden{Warnings: result.Warnings, Operations: result.Operations}
			if err != nil {
				got.Error = err.Error()
			} else {
				got.Pod = apply(t, raw, result.Operations)
			}
			compare(t, filepath.Join("testdata/inject", name+".golden.yaml"), got)
		})
	}
}

func compare(t *testing.T, file string, got any) {
	t.Helper()
	text, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if !bytes.Equal(want, text) {
		t.Errorf("%s differs (go test -update writes it anew); got:\n%s", file, text)
	}
}

// TestEverythingElseStays checks that injection leaves all other fields unchanged.
func TestEverythingElseStays(t *testing.T) {
	for name, raw := range cases(t) {
		t.Run(name, func(t *testing.T) {
			result, err := installationOf(name).inject(raw)
			if err != nil {
				return // golden
			}
			before, after := tree(t, raw), tree(t, apply(t, raw, result.Operations))
			for _, pod := range []map[string]any{before, after} {
				forget(pod)
			}
			if !apiequality.Semantic.DeepEqual(before, after) {
				t.Errorf("before: %v\nafter: %v", before, after)
			}
		})
	}
}

// forget removes everything that injection adds, replaces or removes. It also makes empty and
// absent values equal, which injection does not distinguish.
func forget(pod map[string]any) {
	metadata := pod["metadata"].(map[string]any)
	if annotations, ok := metadata["annotations"].(map[string]any); ok {
		delete(annotations, injector.AnnotationStatus)
		if annotations[injector.AnnotationCredentialRequest] != nil {
			delete(annotations, injector.AnnotationNamespace)
		}
	}
	if labels, ok := metadata["labels"].(map[string]any); ok {
		if delete(labels, injector.LabelFederated); len(labels) == 0 {
			delete(metadata, "labels")
		}
	}
	spec := pod["spec"].(map[string]any)
	without(spec, "volumes", func(v map[string]any) bool {
		return slices.Contains([]any{injector.CredentialsVolume, injector.IdentityVolume, injector.ProxyVolume, injector.PluginVolume}, v["name"])
	})
	without(spec, "initContainers", func(c map[string]any) bool {
		return slices.Contains([]any{injector.RefresherContainer, injector.CopierContainer, injector.PluginContainer}, c["name"])
	})
	for _, list := range []string{"initContainers", "containers"} {
		containers, _ := spec[list].([]any)
		for _, c := range containers {
			c := c.(map[string]any)
			without(c, "env", func(e map[string]any) bool {
				name := e["name"].(string)
				return strings.HasSuffix(strings.ToUpper(name), "NO_PROXY") || name == "KUBECONFIG" && e["value"] == injector.Kubeconfig || name == "KUBERNETES_SERVICE_HOST" || name == "KUBERNETES_SERVICE_PORT" || name == "KUBERNETES_SERVICE_PORT_HTTPS"
			})
			without(c, "volumeMounts", func(m map[string]any) bool {
				clean := filepath.Clean("/" + m["mountPath"].(string))
				return clean == "/var/run/keyferry" || clean == "/var/run/secrets/kubernetes.io/serviceaccount" || clean == "/var/run/secrets/keyferry.dev/local"
			})
		}
	}
}

func without(object map[string]any, key string, drop func(map[string]any) bool) {
	list, _ := object[key].([]any)
	var kept []any
	for _, element := range list {
		if !drop(element.(map[string]any)) {
			kept = append(kept, element)
		}
	}
	if delete(object, key); len(kept) > 0 {
		object[key] = kept
	}
}

func tree(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	var object map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	if err := decoder.Decode(&object); err != nil {
		t.Fatal(err)
	}
	return object
}

func TestSecondInjectionDoesNothing(t *testing.T) {
	for name, raw := range cases(t) {
		t.Run(name, func(t *testing.T) {
			i := installationOf(name)
			first, err := i.inject(raw)
			if err != nil {
				return // golden
			}
			second, err := i.inject(apply(t, raw, first.Operations))
			if err != nil {
				t.Fatal(err)
			}
			if len(second.Operations) > 0 {
				t.Errorf("got operations %v", second.Operations)
			}
		})
	}
}

// TestReleasedPods checks that injection does not change a Pod that a released webhook has
// injected: during an upgrade, replicas of two releases may review the same Pod, and users copy the
// specs of running Pods. Never change the files of this test.
func TestReleasedPods(t *testing.T) {
	files, err := filepath.Glob("testdata/released/*.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d files (%v)", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			result, err := installationOf(name).inject(readJSON(t, file))
			if err != nil {
				t.Fatal(err)
			}
			if len(result.Operations) > 0 {
				t.Errorf("got operations %v", result.Operations)
			}
		})
	}
}

// TestReinvocationWithCopiers checks that the copiers stay directly before the refresher, whatever
// other webhooks add before them.
func TestReinvocationWithCopiers(t *testing.T) {
	i := defaultInstallation()
	i.target.Plugin = plugin()
	raw := cases(t)["one-container"]
	first, err := i.inject(raw)
	if err != nil {
		t.Fatal(err)
	}
	injected := apply(t, raw, first.Operations)
	for name, test := range map[string]struct {
		at   int
		want []any // names of the init containers
	}{
		"first":   {0, []any{"keyferry-plugin-copier", "keyferry-plugin", "keyferry-refresher", "late"}},
		"between": {1, []any{"keyferry-plugin-copier", "keyferry-plugin", "keyferry-refresher", "late"}},
		"last":    {3, []any{"keyferry-plugin-copier", "keyferry-plugin", "keyferry-refresher", "late"}},
	} {
		t.Run(name, func(t *testing.T) {
			late := []injector.Operation{{Op: "add", Path: fmt.Sprintf("/spec/initContainers/%d", test.at), Value: json.RawMessage(`{"name":"late","image":"example.com/late:1"}`)}}
			changed := apply(t, injected, late)
			second, err := i.inject(changed)
			if err != nil {
				t.Fatal(err)
			}
			again := apply(t, changed, second.Operations)
			var got []any
			for _, c := range tree(t, again)["spec"].(map[string]any)["initContainers"].([]any) {
				got = append(got, c.(map[string]any)["name"])
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("init containers are %q, want %q", got, test.want)
			}
			if third, err := i.inject(again); err != nil || len(third.Operations) > 0 {
				t.Errorf("a third injection gives %v, %v", third.Operations, err)
			}
		})
	}
}

const serviceAccountMount = `{"name":"kube-api-access-x7k2p","mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","readOnly":true}`

// TestReinvocation checks that an injected Pod can be injected again after other webhooks and the
// ServiceAccount plugin have changed it.
func TestReinvocation(t *testing.T) {
	container := func(name string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"name":%q,"image":"example.com/late:1","volumeMounts":[%s]}`, name, serviceAccountMount))
	}
	tests := map[string]struct {
		others []injector.Operation
		want   []string // op and path of each operation
	}{
		"plugin mounts its volume in the refresher": {
			others: []injector.Operation{{Op: "add", Path: "/spec/initContainers/0/volumeMounts/-", Value: json.RawMessage(serviceAccountMount)}},
		},
		"image goes through a mirror": {
			others: []injector.Operation{{Op: "replace", Path: "/spec/initContainers/0/image", Value: "mirror.local/refresher:v0.1.0"}},
		},
		"native sidecar of a mesh before the refresher": {
			others: []injector.Operation{{Op: "add", Path: "/spec/initContainers/0", Value: json.RawMessage(`{"name":"istio-proxy","restartPolicy":"Always"}`)}},
		},
		"container added": {
			others: []injector.Operation{{Op: "add", Path: "/spec/containers/0", Value: container("late")}},
			want: []string{
				"add /spec/containers/0/env", "replace /spec/containers/0/volumeMounts/0", "add /spec/containers/0/volumeMounts/-",
				"add /metadata/annotations/keyferry.dev~1status",
			},
		},
		"init container added before the refresher": {
			others: []injector.Operation{{Op: "add", Path: "/spec/initContainers/0", Value: container("late")}},
			want: []string{
				"add /spec/initContainers/0/env", "replace /spec/initContainers/0/volumeMounts/0", "add /spec/initContainers/0/volumeMounts/-",
				"move /spec/initContainers/0", "add /metadata/annotations/keyferry.dev~1status",
			},
		},
		"variable added before ours": {
			others: []injector.Operation{{Op: "add", Path: "/spec/containers/0/env/0", Value: json.RawMessage(`{"name":"A","value":"$(KUBERNETES_SERVICE_HOST)"}`)}},
			want: []string{
				"remove /spec/containers/0/env/3", "remove /spec/containers/0/env/2", "remove /spec/containers/0/env/1",
				"add /spec/containers/0/env/0", "add /spec/containers/0/env/0", "add /spec/containers/0/env/0",
			},
		},
	}
	raw := cases(t)["one-container"]
	i := defaultInstallation()
	first, err := i.inject(raw)
	if err != nil {
		t.Fatal(err)
	}
	injected := apply(t, raw, first.Operations)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			changed := apply(t, injected, test.others)
			second, err := i.inject(changed)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, op := range second.Operations {
				got = append(got, op.Op+" "+op.Path)
			}
			if !apiequality.Semantic.DeepEqual(got, test.want) {
				t.Errorf("got operations %q, want %q", got, test.want)
			}
			third, err := i.inject(apply(t, changed, second.Operations))
			if err != nil || len(third.Operations) > 0 {
				t.Errorf("a third injection gives %v, %v", third.Operations, err)
			}
		})
	}
}

// TestInjectedOtherwise checks that a Pod which was injected for another cluster, or by another
// installation, gets the same result as a new Pod.
func TestInjectedOtherwise(t *testing.T) {
	nothing := func(*installation) {}
	literal := func(i *installation) { i.config.EnvFromFile = false }
	exchanging := func(i *installation) { i.target.SubjectAudience = "sts.example.com" }
	copied := func(i *installation) { i.target.Plugin = plugin() }
	mounted := func(i *installation) { copied(i); i.config.ImageVolume = true }
	other := func(i *installation) {
		mounted(i)
		i.target.Plugin.Command, i.target.Plugin.Image = "/other", "example.com/other:1"
	}
	for name, test := range map[string]struct{ before, now func(*installation) }{
		"env":                         {literal, nothing},
		"without a token to exchange": {nothing, exchanging},
		"with a token to exchange":    {exchanging, nothing},
		"another provider's token":    {func(i *installation) { i.target.SubjectAudience = "api://other" }, exchanging},
		"a plugin by now":             {literal, copied},
		"a plugin that is a volume":   {copied, mounted},
		"a plugin that is no volume":  {mounted, copied},
		"another plugin":              {mounted, other},
		"no plugin any more":          {copied, literal},
	} {
		t.Run(name, func(t *testing.T) {
			raw := cases(t)["several-containers"]
			toOther := []injector.Operation{{Op: "replace", Path: "/metadata/annotations/keyferry.dev~1cluster", Value: "fleet/tenant-2"}}
			before, now := defaultInstallation(), defaultInstallation()
			test.before(&before)
			test.now(&now)
			first, err := before.inject(raw)
			if err != nil {
				t.Fatal(err)
			}
			copied := apply(t, apply(t, raw, first.Operations), toOther)
			second, err := now.inject(copied)
			if err != nil {
				t.Fatal(err)
			}
			fresh := apply(t, raw, toOther)
			want, err := now.inject(fresh)
			if err != nil {
				t.Fatal(err)
			}
			got, expected := tree(t, apply(t, copied, second.Operations)), tree(t, apply(t, fresh, want.Operations))
			for _, pod := range []map[string]any{got, expected} {
				if now.target.Plugin == nil {
					without(pod["spec"].(map[string]any), "volumes", func(v map[string]any) bool { return v["name"] == injector.PluginVolume })
				}
			}
			if !apiequality.Semantic.DeepEqual(got, expected) {
				t.Errorf("got %v, want %v", got, expected)
			}
		})
	}
}

func TestDecodePodRefusesWhatIsNone(t *testing.T) {
	for _, raw := range []string{"", "[]", `{"spec":{"containers":{}}}`} {
		if _, err := injector.DecodePod([]byte(raw)); err == nil {
			t.Errorf("%q: no error", raw)
		}
	}
}

// BenchmarkInject injects a Pod with 7 KB and four containers.
func BenchmarkInject(b *testing.B) {
	raw, i := readJSON(b, "testdata/benchmark.json"), defaultInstallation()
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := i.inject(raw); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAllocations limits allocations: when a cluster restarts, all its annotated Pods are reviewed
// at once.
func TestAllocations(t *testing.T) {
	const most = 120
	raw, i := readJSON(t, "testdata/benchmark.json"), defaultInstallation()
	if got := testing.AllocsPerRun(100, func() {
		if _, err := i.inject(raw); err != nil {
			t.Fatal(err)
		}
	}); got > most {
		t.Errorf("an injection allocates %v times, more than %d", got, most)
	}
}

// BenchmarkFullDecode measures decoding a whole Pod, for comparison with BenchmarkInject.
func BenchmarkFullDecode(b *testing.B) {
	raw := readJSON(b, "testdata/benchmark.json")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := json.Unmarshal(raw, new(corev1.Pod)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestRestartSpread checks that the refresher gets the configured duration, even if it is 0.
func TestRestartSpread(t *testing.T) {
	for _, spread := range []time.Duration{0, time.Minute} {
		i := defaultInstallation()
		i.config.RestartSpread = spread
		raw := cases(t)["minimal"]
		result, err := i.inject(raw)
		if err != nil {
			t.Fatal(err)
		}
		if injected := string(apply(t, raw, result.Operations)); !strings.Contains(injected, `"--restart-spread=`+spread.String()+`"`) {
			t.Errorf("%s: %s", spread, injected)
		}
	}
}
