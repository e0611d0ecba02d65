package docs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/injector/jsonview"
	"github.com/keyferry/keyferry/injector/podtemplate"
	"github.com/keyferry/keyferry/internal/testenv"
)

type object = map[string]any

// documents are the documents of a YAML block.
func documents(t *testing.T, b block) []object {
	t.Helper()
	var all []object
	for decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(b.text), 4096); ; {
		var document object
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s:%d: %v", b.page, b.line, err)
		}
		all = append(all, document)
	}
}

// isPart says whether all names at the top of a document are among names.
func isPart(document object, names ...string) bool {
	for name := range document {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}

// checkYAML checks a document with the program that reads it; apply applies an object, strictly.
func checkYAML(t *testing.T, document object, apply func(*testing.T, object)) {
	t.Helper()
	switch {
	case document["apiVersion"] == "apiserver.config.k8s.io/v1":
		strictly(t, document, &apiserverv1.AuthenticationConfiguration{})
	case document["apiVersion"] == "kustomize.config.k8s.io/v1beta1":
		checkKustomization(t, document)
	case strings.HasPrefix(fmt.Sprint(document["apiVersion"]), "monitoring.coreos.com/"):
		// tools/check-chart has its schemas.
	case strings.HasPrefix(fmt.Sprint(document["apiVersion"]), "policy.cert-manager.io/"):
		// No dependency has its schemas.
	case isForeign(document):
		checkForeign(t, document)
	case document["kind"] == "DPUServiceCredentialRequest":
		checkConvertible(t, document)
		apply(t, document)
	case document["apiVersion"] != nil && document["kind"] != nil:
		checkAnnotations(t, document)
		apply(t, document)
	case isPart(document, "clusters", "users", "contexts", "current-context"):
		strictly(t, document, &clientcmdv1.Config{})
	case isPart(document, chartValues(t)...):
		checkValues(t, document)
	case isPart(document, "metadata", "spec"):
		pod := object{"apiVersion": "v1", "kind": "Pod", "metadata": document["metadata"], "spec": document["spec"]}
		applyPod(t, pod, apply)
	case isPart(document, "volumes", "containers", "initContainers"):
		applyPod(t, object{"apiVersion": "v1", "kind": "Pod", "spec": document}, apply)
	case isPart(document, "volumeMounts", "env", "resources"):
		strictly(t, document, &corev1.Container{})
	case isPart(document, "access", "issue", "endpoint", "delivery", "defaultNamespace"):
		apply(t, targetCluster(document))
	case strings.HasPrefix(slices.Collect(maps.Keys(document))[0], "keyferry.dev/"):
		if !slices.ContainsFunc(slices.Collect(maps.Keys(document)), func(name string) bool { return strings.HasPrefix(name, "keyferry.dev/c") }) {
			document["keyferry.dev/cluster"] = "fleet/tenant-1" // an option is shown by itself
		}
		pod := object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"annotations": document}}
		applyPod(t, pod, apply)
	case isPart(document, "mapSubAccounts"):
		// A ConfigMap of Naver Cloud Platform.
	default:
		t.Errorf("nothing here knows what these are: %q", slices.Sorted(maps.Keys(document)))
	}
}

// foreign are the API groups of kinds that no dependency has.
var foreign = []string{
	"argoproj.io", "helm.toolkit.fluxcd.io", "jobset.x-k8s.io", "kubernetes.crossplane.io", "kustomize.toolkit.fluxcd.io", "serving.knative.dev",
	"source.toolkit.fluxcd.io", "sparkoperator.k8s.io", "tekton.dev",
}

func isForeign(document object) bool {
	group, _, _ := strings.Cut(fmt.Sprint(document["apiVersion"]), "/")
	return slices.Contains(foreign, group)
}

// checkForeign has all annotations of an object parsed as the webhook parses them, and finds those
// that no Pod receives. Helm renders the chart with the values of an object that installs it.
func checkForeign(t *testing.T, document object) {
	t.Helper()
	for _, path := range [][]string{{"spec", "values"}, {"spec", "source", "helm", "valuesObject"}} {
		values, found, err := unstructured.NestedMap(document, path...)
		if err != nil {
			t.Error(err)
		}
		if found {
			checkValues(t, values)
		}
	}
	content, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jsonview.Check(content)
	if err != nil {
		t.Fatal(err)
	}
	read := podtemplate.Read(raw)
	for _, m := range read.Misplaced() {
		t.Errorf("%s in %s has no effect: move it to %s", m.Annotation, m.From, m.To)
	}
	var walk func(value any)
	walk = func(value any) {
		switch value := value.(type) {
		case object:
			for name, member := range value {
				if annotations, ok := member.(object); ok && name == "annotations" {
					texts := map[string]string{}
					for key, text := range annotations {
						texts[key] = fmt.Sprint(text)
					}
					if _, err := injector.ParseAnnotations(texts, "app"); err != nil {
						t.Error(err)
					}
				}
				walk(member)
			}
		case []any:
			for _, element := range value {
				walk(element)
			}
		}
	}
	walk(document)
}

// strictly decodes a document into a type and refuses fields that are not in it.
func strictly(t *testing.T, document object, into any) {
	t.Helper()
	content, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Error(err)
	}
}

// applyPod applies a Pod of which the documentation shows a part.
func applyPod(t *testing.T, pod object, apply func(*testing.T, object)) {
	t.Helper()
	hash := fnv.New32()
	fmt.Fprint(hash, pod) // a Pod cannot be changed into another one
	metadata, _ := pod["metadata"].(object)
	pod["metadata"] = merge(object{"name": fmt.Sprintf("part-%x", hash.Sum32()), "namespace": "app"}, metadata)
	spec, _ := pod["spec"].(object)
	pod["spec"] = merge(object{"serviceAccountName": "web", "containers": []any{object{"name": "app", "image": "app"}}}, spec)
	checkAnnotations(t, pod)
	apply(t, pod)
}

// targetCluster is a TargetCluster of whose spec the documentation shows a part.
func targetCluster(spec object) object {
	whole := merge(object{
		"access": object{"type": "Kubeconfig", "kubeconfig": object{"name": "part"}},
		"issue":  object{"type": "Access"},
	}, spec)
	return object{"apiVersion": "keyferry.dev/v1alpha1", "kind": "TargetCluster", "metadata": object{"name": "part", "namespace": "fleet"}, "spec": whole}
}

func merge(a, b object) object {
	merged := maps.Clone(a)
	maps.Copy(merged, b)
	return merged
}

// checkAnnotations has the annotations of a Pod, or of a Pod template, parsed as the webhook parses
// them.
func checkAnnotations(t *testing.T, document object) {
	t.Helper()
	content, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	var o struct {
		Kind     string
		Metadata struct {
			Namespace   string
			Annotations map[string]string
		}
		Spec struct {
			Template struct {
				Metadata struct{ Annotations map[string]string }
			}
		}
	}
	if err := json.Unmarshal(content, &o); err != nil {
		t.Fatal(err)
	}
	annotations := o.Spec.Template.Metadata.Annotations
	if o.Kind == "Pod" {
		annotations = o.Metadata.Annotations
	}
	if _, err := injector.ParseAnnotations(annotations, o.Metadata.Namespace); err != nil {
		t.Error(err)
	}
}

func chartValues(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "charts", "keyferry", "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values object
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	return slices.Collect(maps.Keys(values))
}

// checkValues has Helm render the chart with values, and a provider file among them read as broker
// and webhook read it.
func checkValues(t *testing.T, values object) {
	t.Helper()
	content, err := yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "tools", "run"), "helm", "template", "keyferry", filepath.Join(root, "charts", "keyferry"), "--values", "-")
	cmd.Stdin = bytes.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if file, ok := values["providerFile"]; ok {
		checkProviderFile(t, file)
	}
}

func checkProviderFile(t *testing.T, file any) {
	t.Helper()
	content, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clusterprofile.ParseProviderFile(content); err != nil {
		t.Error(err)
	}
}

// checkKustomization has kubectl render a kustomization, whose resources are the repository's.
func checkKustomization(t *testing.T, document object) {
	t.Helper()
	content, err := yaml.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	config, err := filepath.Abs(filepath.Join(root, "config"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "config"), os.DirFS(config)); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(content), "https://github.com/keyferry/keyferry//config/", "config/")
	if i := strings.Index(text, "?ref="); i > 0 {
		end := strings.IndexByte(text[i:], '\n')
		text = text[:i] + text[i+end:]
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(testenv.Assets(), "kubectl"), "kustomize", dir).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// checkConvertible has keyferry convert a request of NVIDIA DPF.
func checkConvertible(t *testing.T, request object) {
	t.Helper()
	content, err := yaml.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), tools(t)["keyferry"], "convert", "-f", "-")
	cmd.Stdin = bytes.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// checkJSON looks at what is no manifest: policies of clouds, log lines, provider files.
func checkJSON(t *testing.T, b block) {
	t.Helper()
	var document object
	if err := json.Unmarshal([]byte(b.text), &document); err != nil {
		t.Error(err)
	}
	if _, ok := document["providers"]; ok && !strings.Contains(b.text, `"command": "keyferry"`) { // that one is for the programs of others
		checkProviderFile(t, document)
	}
}

func place(b block) string { return fmt.Sprintf("%s:%d", b.page, b.line) }
