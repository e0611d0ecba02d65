package main

import (
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

// TestInstall: install.yaml has the namespace first, then the CRDs, then all objects of the chart
// without values, with the images of the version and nothing of Helm.
func TestInstall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := writeInstall(chartDir, "v1.2.3", dir); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, "install.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	installed := objects{}
	for i, object := range decode(t, string(content)) {
		installed.add(t, object)
		if want := map[int]string{0: "Namespace", 1: "CustomResourceDefinition", 2: "CustomResourceDefinition"}[i]; want != "" && object.GetKind() != want {
			t.Errorf("object %d is a %s, not a %s", i, object.GetKind(), want)
		}
		for label, value := range object.GetLabels() {
			if value == "Helm" || label == "helm.sh/chart" {
				t.Errorf("%s %s has the label %s: %s", object.GetKind(), object.GetName(), label, value)
			}
		}
	}
	for name, object := range mustRender(t, "") {
		_, hook := object.GetAnnotations()["helm.sh/hook"]
		if _, ok := installed[name]; !ok && !hook {
			t.Errorf("%s is missing", name)
		}
	}
	for _, component := range components {
		deployment := get[appsv1.Deployment](t, installed, "Deployment/keyferry-"+component)
		if image := deployment.Spec.Template.Spec.Containers[0].Image; image != "ghcr.io/keyferry/keyferry:v1.2.3" {
			t.Errorf("the image of the %s is %s", component, image)
		}
	}
}
