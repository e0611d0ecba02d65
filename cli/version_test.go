package cli

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestVersionsText: a component of another version is in sight.
func TestVersionsText(t *testing.T) {
	v := versions{Client: "v1.1.0", Namespace: "keyferry-system", Components: []component{{Name: "keyferry-broker", Version: "v1.0.0", Ready: 1, Replicas: 2}}}
	var text strings.Builder
	if err := v.writeText(&text); err != nil {
		t.Fatal(err)
	}
	const want = "COMPONENT         VERSION   PODS\nclient            v1.1.0    -\nkeyferry-broker   v1.0.0    1/2\n"
	if text.String() != want {
		t.Errorf("got\n%swant\n%s", text.String(), want)
	}
}

// TestVersionOf: what runs is the image, whatever the chart's label says.
func TestVersionOf(t *testing.T) {
	for image, want := range map[string]string{
		"registry.example.com:5000/keyferry/broker:v1.1.0":             "v1.1.0",
		"registry.example.com:5000/keyferry/broker:v1.1.0@sha256:0123": "v1.1.0",
		"registry.example.com:5000/keyferry/broker@sha256:0123":        "v1.0.0",
		"registry.example.com:5000/keyferry/broker":                    "v1.0.0",
	} {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/version": "v1.0.0"}}}
		d.Spec.Template.Spec.Containers = []corev1.Container{{Image: image}}
		if got := versionOf(d); got != want {
			t.Errorf("%s: version %q, want %q", image, got, want)
		}
	}
}
