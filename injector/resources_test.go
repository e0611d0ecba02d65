package injector_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/keyferry/keyferry/injector"
)

// TestResources checks the sidecar's resources: those of the installation, unless the annotation or
// the resources of the whole Pod override them.
func TestResources(t *testing.T) {
	const (
		installed  = `{"requests":{"cpu":"10m","memory":"32Mi"},"limits":{"cpu":"500m","memory":"128Mi"}}`
		guaranteed = `"resources":{"limits":{"cpu":"2","memory":"1Gi"},"requests":{"cpu":"2000m","memory":"1Gi"}}`
		loses      = "QoS class Burstable"
	)
	for name, test := range map[string]struct {
		annotation, pod, container string
		want, warning              string
	}{
		"the installation's":        {want: installed},
		"nothing is named":          {annotation: `{}`, want: installed},
		"one limit":                 {annotation: `{"limits":{"memory":"256Mi"}}`, want: `{"requests":{"cpu":"10m","memory":"32Mi"},"limits":{"cpu":"500m","memory":"256Mi"}}`},
		"one request":               {annotation: `{"requests":{"cpu":"20m"}}`, want: `{"requests":{"cpu":"20m","memory":"32Mi"},"limits":{"cpu":"500m","memory":"128Mi"}}`},
		"a limit below the request": {annotation: `{"limits":{"memory":"24Mi"}}`, want: `{"requests":{"cpu":"10m","memory":"24Mi"},"limits":{"cpu":"500m","memory":"24Mi"}}`},
		"a request above the limit": {annotation: `{"requests":{"cpu":1}}`, want: `{"requests":{"cpu":"1","memory":"32Mi"},"limits":{"cpu":"1","memory":"128Mi"}}`},
		"another resource":          {annotation: `{"limits":{"ephemeral-storage":"1Gi"}}`, want: `{"requests":{"cpu":"10m","memory":"32Mi"},"limits":{"cpu":"500m","memory":"128Mi","ephemeral-storage":"1Gi"}}`},
		"Pod-level":                 {pod: `"resources":{"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"1","memory":"1Gi"}}`, want: `{"requests":{"cpu":"0","memory":"0"},"limits":{"cpu":"500m","memory":"128Mi"}}`},
		"Pod-level limits only":     {pod: `"resources":{"limits":{"cpu":"4","memory":"8Gi"}}`, want: `{}`},
		"Pod-level memory":          {pod: `"resources":{"requests":{"memory":"1Gi"}}`, want: `{"requests":{"cpu":"10m","memory":"0"},"limits":{"cpu":"500m","memory":"128Mi"}}`},
		"Pod-level, and named":      {pod: `"resources":{"limits":{"cpu":"4","memory":"8Gi"}}`, annotation: `{"requests":{"cpu":"5m"}}`, want: `{"requests":{"cpu":"5m"}}`},
		"Pod-level and Guaranteed":  {pod: `"resources":{"requests":{"cpu":"2","memory":"1Gi"},"limits":{"cpu":"2","memory":"1Gi"}}`, container: guaranteed, want: `{"requests":{"cpu":"0","memory":"0"},"limits":{"cpu":"500m","memory":"128Mi"}}`},
		"Pod-level, which a named request exceeds": {
			pod: `"resources":{"requests":{"cpu":2}}`, container: guaranteed, annotation: `{"requests":{"cpu":"5m"}}`,
			want: `{"requests":{"cpu":"5m","memory":"32Mi"},"limits":{"cpu":"500m","memory":"128Mi"}}`,
			warning: "annotation keyferry.dev/refresher-resources: the sidecar requests 5m of cpu, so all containers request 2005m, " +
				"but spec.resources.requests of the Pod is 2: lower the sidecar's request, or raise spec.resources.requests",
		},
		"Pod-level limit, which a named request exceeds": {
			pod: `"resources":{"limits":{"memory":"1Gi"}}`, container: guaranteed, annotation: `{"requests":{"memory":"1Mi"}}`,
			want:    `{"requests":{"cpu":"10m","memory":"1Mi"},"limits":{"cpu":"500m"}}`,
			warning: "all containers request 1025Mi, but spec.resources.limits of the Pod is 1Gi",
		},
		"Pod-level request, which a named limit exceeds": {
			pod: `"resources":{"requests":{"memory":"1Gi"},"limits":{"memory":"2Gi"}}`, annotation: `{"limits":{"memory":"3Gi"}}`,
			want: `{"requests":{"cpu":"10m","memory":"0"},"limits":{"cpu":"500m","memory":"3Gi"}}`,
		},
		"Pod-level, exceeded by the Pod itself": {
			pod: `"resources":{"requests":{"cpu":1}}`, container: guaranteed, annotation: `{"requests":{"cpu":"5m"}}`,
			want: `{"requests":{"cpu":"5m","memory":"32Mi"},"limits":{"cpu":"500m","memory":"128Mi"}}`,
		},
		"Guaranteed":                     {container: guaranteed, want: installed, warning: loses},
		"Guaranteed, by default":         {container: `"resources":{"limits":{"cpu":2,"memory":"1Gi"}}`, want: installed, warning: loses},
		"Guaranteed, a limit is named":   {container: guaranteed, annotation: `{"limits":{"memory":"32Mi"}}`, want: `{"requests":{"cpu":"10m","memory":"32Mi"},"limits":{"cpu":"500m","memory":"32Mi"}}`, warning: loses},
		"Guaranteed, as the docs say":    {container: guaranteed, annotation: `{"requests":{"cpu":"50m","memory":"64Mi"},"limits":{"cpu":"50m","memory":"64Mi"}}`, want: `{"requests":{"cpu":"50m","memory":"64Mi"},"limits":{"cpu":"50m","memory":"64Mi"}}`},
		"Burstable":                      {container: `"resources":{"limits":{"cpu":"2","memory":"1Gi"},"requests":{"cpu":"1"}}`, want: installed},
		"BestEffort":                     {container: `"resources":{}`, want: installed},
		"a limit of CPU is missing":      {container: `"resources":{"limits":{"memory":"1Gi"}}`, want: installed},
		"a number that is none":          {container: `"resources":{"limits":{"cpu":"1e999999999","memory":"1Gi"},"requests":{"cpu":"2e999999999"}}`, want: installed},
		"claims of the Pod are no limit": {pod: `"resources":{"claims":[{"name":"gpu"}]}`, want: installed},
	} {
		t.Run(name, func(t *testing.T) {
			annotations := map[string]string{"keyferry.dev/cluster": "fleet/tenant-1"}
			if test.annotation != "" {
				annotations[injector.AnnotationRefresherResources] = test.annotation
			}
			metadata, err := json.Marshal(map[string]any{"name": "web", "annotations": annotations})
			if err != nil {
				t.Fatal(err)
			}
			member := func(text string) string { return strings.TrimSuffix(","+text, ",") }
			raw := fmt.Appendf(nil, `{"metadata":%s,"spec":{"containers":[{"name":"app","image":"a"%s}]%s}}`, metadata, member(test.container), member(test.pod))
			i := defaultInstallation()
			i.config.Resources = json.RawMessage(installed)
			result, err := i.inject(raw)
			if err != nil {
				t.Fatal(err)
			}
			injected := apply(t, raw, result.Operations)
			var pod corev1.Pod
			var want corev1.ResourceRequirements
			if err := json.Unmarshal(injected, &pod); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(test.want), &want); err != nil {
				t.Fatal(err)
			}
			if got := pod.Spec.InitContainers[0].Resources; !apiequality.Semantic.DeepEqual(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
			if warnings := strings.Join(result.Warnings, "\n"); test.warning == "" && warnings != "" || !strings.Contains(warnings, test.warning) {
				t.Errorf("warnings %q, want %q", warnings, test.warning)
			}
			if again, err := i.inject(injected); err != nil || len(again.Operations) > 0 {
				t.Errorf("injecting it again gives %v, %v", again.Operations, err)
			}
		})
	}
}

// TestWarningKeepsGuaranteed checks that the annotation in the warning keeps the QoS class.
func TestWarningKeepsGuaranteed(t *testing.T) {
	raw := []byte(`{"metadata":{"name":"web","annotations":{"keyferry.dev/cluster":"fleet/tenant-1"}},
		"spec":{"containers":[{"name":"app","image":"a","resources":{"limits":{"cpu":"3","memory":"2Gi"}}}]}}`)
	result, err := defaultInstallation().inject(raw)
	if err != nil || len(result.Warnings) != 1 {
		t.Fatalf("warnings %q, %v", result.Warnings, err)
	}
	_, value, _ := strings.Cut(result.Warnings[0], "set annotation keyferry.dev/refresher-resources to ")
	raw = apply(t, raw, []injector.Operation{{Op: "add", Path: "/metadata/annotations/keyferry.dev~1refresher-resources", Value: value}})
	if result, err = defaultInstallation().inject(raw); err != nil || len(result.Warnings) > 0 {
		t.Errorf("with %s: warnings %q, %v", value, result.Warnings, err)
	}
}
