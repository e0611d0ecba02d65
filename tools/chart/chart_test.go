package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	sigsyaml "sigs.k8s.io/yaml"
)

const chartDir = "../../charts/keyferry"

var components = []string{"webhook", "broker", "controller"}

// objects are what was rendered, by "kind/name", or "kind/namespace/name" outside of the release's
// namespace.
type objects map[string]*unstructured.Unstructured

// mustRender renders the chart with values, YAML.
func mustRender(t *testing.T, values string, apis ...string) objects {
	t.Helper()
	rendered, err := render(chartDir, options{values: values, apis: apis})
	if err != nil {
		t.Fatal(err)
	}
	all := objects{}
	for _, template := range rendered.templates() {
		for _, object := range decode(t, rendered[template]) {
			all.add(t, object)
		}
	}
	return all
}

func (o objects) add(t *testing.T, object *unstructured.Unstructured) {
	t.Helper()
	name := object.GetKind() + "/" + object.GetName()
	if ns := object.GetNamespace(); ns != "" && ns != namespace {
		name = object.GetKind() + "/" + ns + "/" + object.GetName()
	}
	if _, twice := o[name]; twice {
		t.Errorf("%s is rendered twice", name)
	}
	o[name] = object
}

// decode reads the objects of a document stream.
func decode(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if len(object.Object) > 0 {
			all = append(all, object)
		}
	}
}

// get is the object with that name, as its type.
func get[T any](t *testing.T, o objects, name string) T {
	t.Helper()
	var typed T
	object, ok := o[name]
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, &typed, true); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return typed
}

// ciValues are the values that are kept for tests, by file name.
func ciValues(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chartDir, "ci", "*-values.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no values for tests: %v", err)
	}
	all := map[string]string{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(file), "-values.yaml")] = string(content)
	}
	return all
}

// TestStrict decodes all that can be rendered into the types of the newest Kubernetes that is
// released as modules: an unknown or misplaced field is an error. Schemas of the versions before
// are looked at by tools/check-chart.
func TestStrict(t *testing.T) {
	t.Parallel()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for name, values := range ciValues(t) {
		for key, object := range mustRender(t, values, prometheusOperator) {
			content, err := json.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = decoder.Decode(content, nil, nil)
			if err != nil && !runtime.IsNotRegisteredError(err) {
				t.Errorf("%s: %s: %v", name, key, err)
			}
		}
	}
}

// podSpecs are those of what runs, by object.
func podSpecs(t *testing.T, o objects) map[string]corev1.PodTemplateSpec {
	t.Helper()
	specs := map[string]corev1.PodTemplateSpec{}
	for name, object := range o {
		switch object.GetKind() {
		case "Deployment":
			specs[name] = deployment(t, o, strings.TrimPrefix(name, "Deployment/keyferry-")).Spec.Template
		case "Pod":
			pod := get[corev1.Pod](t, o, name)
			specs[name] = corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
		}
	}
	return specs
}

// TestSecretsAreNotRendered: a key in a template changes at each rendering, or is in a repository.
func TestSecretsAreNotRendered(t *testing.T) {
	t.Parallel()
	for name, values := range ciValues(t) {
		rendered := mustRender(t, values, prometheusOperator)
		for key, object := range rendered {
			if object.GetKind() == "Secret" {
				t.Errorf("%s: %s", name, key)
			}
			if content, _ := json.Marshal(object); object.GetKind() != "CustomResourceDefinition" && bytes.Contains(content, []byte(`"caBundle"`)) {
				t.Errorf("%s: %s has a caBundle", name, key)
			}
		}
		again := mustRender(t, values, prometheusOperator)
		for key := range rendered {
			if a, b := fmt.Sprint(rendered[key]), fmt.Sprint(again[key]); a != b {
				t.Errorf("%s: %s differs between two renderings", name, key)
			}
		}
	}
}

// TestConfig holds that config/default, and the CRDs beside it, are the chart's objects but for
// what Helm needs.
func TestConfig(t *testing.T) {
	t.Parallel()
	want := mustRender(t, "")
	maps.DeleteFunc(want, func(_ string, object *unstructured.Unstructured) bool {
		_, hook := object.GetAnnotations()["helm.sh/hook"]
		return hook
	})
	got := objects{}
	for _, file := range []string{"default", "crd"} {
		files, err := filepath.Glob(filepath.Join("../../config", file, "*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			content, err := os.ReadFile(filepath.Clean(file))
			if err != nil {
				t.Fatal(err)
			}
			for _, object := range decode(t, string(content)) {
				if kind := object.GetKind(); kind != "Kustomization" && kind != "Namespace" {
					got.add(t, object)
				}
			}
		}
	}
	if a, b := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(a, b) {
		t.Errorf("config has\n%s\nand the chart\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	for name := range got {
		if a, b := plain(t, got[name]), plain(t, want[name]); a != b {
			t.Errorf("%s: config has\n%s\nand the chart\n%s", name, a, b)
		}
	}
}

// plain is an object without Helm's labels and annotations, as YAML.
func plain(t *testing.T, object *unstructured.Unstructured) string {
	t.Helper()
	if object == nil {
		return ""
	}
	object = object.DeepCopy()
	for _, path := range [][]string{{"metadata", "labels"}, {"spec", "template", "metadata", "labels"}} {
		for _, label := range []string{"helm.sh/chart", "app.kubernetes.io/managed-by"} {
			unstructured.RemoveNestedField(object.Object, append(slices.Clone(path), label)...)
		}
	}
	annotations := object.GetAnnotations()
	delete(annotations, "helm.sh/resource-policy")
	if len(annotations) == 0 {
		annotations = nil
	}
	object.SetAnnotations(annotations)
	if object.GetKind() == "CustomResourceDefinition" {
		object.SetLabels(nil) // controller-gen sets none
	}
	content, err := sigsyaml.Marshal(object.Object)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
