package convert

import (
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/internal/testenv"
)

var update = flag.Bool("update", false, "write the golden files anew")

var server client.Client

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		var err error
		if server, err = client.New(cfg, client.Options{}); err != nil {
			panic(err)
		}
	}))
}

// converted converts a file of testdata.
func converted(t *testing.T, file string) (text string, warnings []string) {
	t.Helper()
	input, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	out, warnings, err := Convert([]Input{{Name: file, Text: input}}, "default")
	if err != nil {
		t.Fatal(err)
	}
	return string(out), warnings
}

var files = []string{"full.yaml", "same-cluster.yaml", "list.json"}

func TestConvertGolden(t *testing.T) {
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			text, warnings := converted(t, file)
			base := filepath.Join("testdata", strings.TrimSuffix(file, filepath.Ext(file)))
			golden(t, base+".golden.yaml", text)
			golden(t, base+".warnings.golden", strings.Join(warnings, "\n")+"\n")
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s differs (go test -update writes it anew); got:\n%s", file, got)
	}
}

func TestServerAcceptsOutput(t *testing.T) {
	for _, file := range files {
		text, _ := converted(t, file)
		decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
		for n := 0; ; n++ {
			var object unstructured.Unstructured
			if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) && n > 0 {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: object.GetNamespace()}}
			if err := client.IgnoreAlreadyExists(server.Create(t.Context(), namespace)); err != nil {
				t.Fatal(err)
			}
			if err := server.Create(t.Context(), &object, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
				t.Errorf("%s: %s %s: %v", file, object.GetKind(), object.GetName(), err)
			}
		}
	}
}

// The fields of the spec in DPF's CRD, v1alpha1, that hold a value, and what becomes of those of
// full.yaml.
var specFields = map[string]string{
	"serviceAccount.name":      "\n        name: robot\n",
	"serviceAccount.namespace": "\n        namespace: robots\n        type: Fixed\n",
	"duration":                 "\n  duration: 1h30m0s\n",
	"targetCluster.name":       "\n    name: tenant-1.robots.robot\n",
	"targetCluster.namespace":  "\n    namespace: fleet\n",
	"type":                     "\n  type: tokenFile\n",
	"secret.name":              "\n    name: tenant-1\n",
	"secret.namespace":         "\n  namespace: shop\n",
	"metadata.labels":          "\n    labels:\n      tier: \"1\"\n",
	"metadata.annotations":     "\n    annotations:\n      purpose: 'a \"quoted\": text'\n",
}

func TestEverySpecFieldIsConverted(t *testing.T) {
	text, _ := converted(t, "full.yaml")
	decoded := map[string]bool{}
	fields(reflect.TypeFor[requestSpec](), "", decoded)
	for field, want := range specFields {
		if !decoded[field] {
			t.Errorf("spec.%s is not decoded", field)
		}
		delete(decoded, field)
		if !strings.Contains(text, want) {
			t.Errorf("spec.%s is lost: there is no %q in\n%s", field, want, text)
		}
	}
	for field := range decoded {
		t.Errorf("spec.%s is decoded, and not in DPF's CRD", field)
	}
}

// fields collects the paths of all fields of a struct that hold a value.
func fields(in reflect.Type, prefix string, paths map[string]bool) {
	for i := range in.NumField() {
		name, _, _ := strings.Cut(in.Field(i).Tag.Get("json"), ",")
		of := in.Field(i).Type
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() == reflect.Struct {
			fields(of, prefix+name+".", paths)
			continue
		}
		paths[prefix+name] = true
	}
}

func TestDroppedIsNamed(t *testing.T) {
	text, _ := converted(t, "full.yaml")
	for _, want := range []string{"status", "metadata.uid", "metadata.creationTimestamp", "metadata.finalizers", "keyferry.dev/mine", "last-applied-configuration"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no word of %s in\n%s", want, text)
		}
	}
	for _, want := range []string{"\n  labels:\n    team: web\n", "\n  annotations:\n    contact: web@example.com\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
}

func TestRefused(t *testing.T) {
	const valid = `{apiVersion: svc.dpu.nvidia.com/v1alpha1, kind: DPUServiceCredentialRequest, metadata: {name: web, namespace: app},
  spec: {serviceAccount: {name: a}, targetCluster: {name: c}, type: kubeconfig, secret: {name: s}}}`
	with := func(old, now string) string {
		if !strings.Contains(valid, old) {
			t.Fatalf("there is no %s in the valid one", old)
		}
		return strings.Replace(valid, old, now, 1)
	}
	tests := map[string]struct{ input, want string }{
		"other kind":         {"{apiVersion: v1, kind: Secret, metadata: {name: s}}", `in: document 1 is v1 Secret "s", but the command converts only DPUServiceCredentialRequest of svc.dpu.nvidia.com/v1alpha1: remove all other objects`},
		"other version":      {with("v1alpha1", "v1beta1"), "v1beta1 DPUServiceCredentialRequest"},
		"no kind":            {"a: 1", "an object without kind"},
		"no object":          {"text", "document 1 is not an object"},
		"nothing":            {"---\n", "there is no DPUServiceCredentialRequest in the input"},
		"no YAML":            {"a: [", "document 1: error converting YAML to JSON: yaml:"},
		"a key twice":        {"kind: a\nkind: b", "\"kind\" already set"},
		"second document":    {valid + "\n---\na: 1", "document 2"},
		"in a List":          {"{apiVersion: v1, kind: List, items: [{a: 1}]}", "document 1: item 1"},
		"unknown field":      {with("type:", "kind: x, type:"), `unknown field "spec.kind": correct the request, or remove it`},
		"other capitals":     {with("secret:", "Secret:"), `unknown field "spec.Secret"`},
		"label is no text":   {with("type:", "metadata: {labels: {a: true}}, type:"), "document 1: DPUServiceCredentialRequest \"web\": "},
		"no name":            {with("name: web", "generateName: web-"), "metadata.name is missing"},
		"no type":            {with("type: kubeconfig,", ""), "spec.type is missing"},
		"wrong type":         {with("type: kubeconfig", "type: argocd"), "it must be kubeconfig or tokenFile"},
		"no secret":          {with("secret: {name: s}", "secret: {}"), "spec.secret.name is missing"},
		"no account":         {with("{name: a}", "{}"), "spec.serviceAccount.name is missing"},
		"no cluster's name":  {with("{name: c}", "{namespace: fleet}"), "spec.targetCluster.name is missing"},
		"wrong duration":     {with("type:", "duration: 1d, type:"), `spec.duration is "1d": write it like 1h or 90m`},
		"negative duration":  {with("type:", "duration: -1h, type:"), `spec.duration is "-1h"`},
		"name is none":       {with("name: s}", `name: "s\nkind: x"}`), `spec.secret.name is "s\nkind: x": `},
		"namespace is none":  {with("name: a}", "name: a, namespace: a.b}"), `spec.serviceAccount.namespace is "a.b": `},
		"long name":          {with("name: web", "name: "+strings.Repeat("a", 64)), "metadata.name has 64 characters"},
		"the same twice":     {valid + "\n---\n" + valid, "would both become CredentialRequest app/web"},
		"long target":        {with("{name: c}", "{name: "+strings.Repeat("c", 250)+"}"), "must be no more than 253 characters: write the objects for the request by hand"},
		"ambiguous accounts": {with("{name: c}", "{name: c.x}") + "\n---\n" + strings.Replace(with("{name: a}", "{name: app.a, namespace: x}"), "name: web", "name: web-2", 1), "both would be named app/c.x.app.a"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			text, _, err := Convert([]Input{{Name: "in", Text: []byte(test.input)}}, "default")
			if err == nil || !strings.Contains(err.Error(), test.want) || len(text) > 0 {
				t.Errorf("got error %v, want %s; and text:\n%s", err, test.want, text)
			}
		})
	}
}

// TestTextStaysAsItIs: what kubectl would send as text is text, and is quoted where it has to be.
func TestTextStaysAsItIs(t *testing.T) {
	const request = `
apiVersion: svc.dpu.nvidia.com/v1alpha1
kind: DPUServiceCredentialRequest
metadata: {name: web, namespace: app, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  serviceAccount: {name: a}
  type: kubeconfig
  secret: {name: s}
  metadata:
    annotations: {date: 2024-01-01, number: "1", answer: "no", lines: "a\nb", empty: ""}
`
	text, _, err := Convert([]Input{{Name: "in", Text: []byte(request)}}, "default")
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(string(text), "\n---\n")
	var got struct {
		Spec struct {
			Secret secretMetadata `json:"secret"`
		} `json:"spec"`
	}
	if err := sigsyaml.Unmarshal([]byte(documents[len(documents)-1]), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"date": "2024-01-01", "number": "1", "answer": "no", "lines": "a\nb", "empty": ""}
	if !maps.Equal(got.Spec.Secret.Annotations, want) {
		t.Errorf("got %q", got.Spec.Secret.Annotations)
	}
}

func TestRequestsForOneSecretAreNamed(t *testing.T) {
	const request = `{apiVersion: svc.dpu.nvidia.com/v1alpha1, kind: DPUServiceCredentialRequest,
  metadata: {name: web, namespace: app}, spec: {serviceAccount: {name: a}, targetCluster: {name: c}, type: kubeconfig, secret: {name: s}}}`
	_, warnings, err := Convert([]Input{{Name: "a", Text: []byte(request)}, {Name: "b", Text: []byte(strings.Replace(request, "web", "jobs", 1))}}, "default")
	want := `b: document 1: DPUServiceCredentialRequest "jobs": Secret app/s is also the Secret of a: document 1: DPUServiceCredentialRequest "web", but only one`
	if err != nil || !strings.HasPrefix(warnings[len(warnings)-1], want) {
		t.Errorf("got %q, %v", warnings, err)
	}
}

// TestPage: what the page shows is what the command prints.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/coming-from-dpf.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) != 2 {
		t.Fatalf("got %d blocks of YAML, want what is converted and what becomes of it", len(blocks))
	}
	text, _, err := Convert([]Input{{Name: "page", Text: []byte(blocks[0][1])}}, "default")
	if err != nil || string(text) != blocks[1][1] {
		t.Errorf("got %v, and:\n%s", err, text)
	}
}

func TestCommentEndsWhereItShould(t *testing.T) {
	const input = `{apiVersion: svc.dpu.nvidia.com/v1alpha1, kind: DPUServiceCredentialRequest,
  metadata: {name: web, "a\r\n---\rkind: Secret\u2028b": 1}, spec: {serviceAccount: {name: a}, type: kubeconfig, secret: {name: s}}}`
	text, _, err := Convert([]Input{{Name: "in", Text: []byte(input)}}, "default")
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(string(text), "\r\u2028") || strings.Contains(string(text), "\nkind: Secret") || strings.Count(string(text), "\n---\n") != 4 {
		t.Errorf("got:\n%s", text)
	}
}

func TestLife(t *testing.T) {
	tests := map[string]struct{ asked, want, comment string }{
		"none":  {"", "1h0m0s", "The request has no duration"},
		"exact": {"10m", "10m0s", ""},
		"short": {"9m59s", "10m0s", "9m59s is shorter"},
		"day":   {"24h", "24h0m0s", ""},
		"long":  {"24.5h", "24h0m0s", "24.5h is longer"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := request{manifest: manifest{Spec: requestSpec{Duration: test.asked}}}
			if err := r.setLife(); err != nil {
				t.Fatal(err)
			}
			if r.life.String() != test.want || !strings.HasPrefix(r.lifeNow, test.comment) || (r.lifeNow == "") != (test.comment == "") {
				t.Errorf("got %s, %q", r.life, r.lifeNow)
			}
		})
	}
}
