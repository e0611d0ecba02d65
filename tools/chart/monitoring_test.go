package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	sigsyaml "sigs.k8s.io/yaml"
)

// TestRulesAndDashboard: they are the files that have been tested, to the letter.
func TestRulesAndDashboard(t *testing.T) {
	const values = "metrics: {rules: {enabled: true, labels: {release: p}}, dashboard: {enabled: true, labels: {grafana_dashboard: yes-please}, annotations: {grafana_folder: Platform}}}"
	o := mustRender(t, values, prometheusOperator)
	rules, ok := o["PrometheusRule/keyferry"]
	if !ok {
		t.Fatal("there is no PrometheusRule")
	}
	if rules.GetLabels()["release"] != "p" {
		t.Errorf("labels of the PrometheusRule: %v", rules.GetLabels())
	}
	var want any
	if err := sigsyaml.Unmarshal(file(t, "rules.yaml"), &want); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(rules.Object["spec"], want) {
		t.Error("the PrometheusRule has not what the file has")
	}
	dashboard := get[corev1.ConfigMap](t, o, "ConfigMap/keyferry-dashboard")
	if dashboard.Labels["grafana_dashboard"] == "" || dashboard.Annotations["grafana_folder"] != "Platform" {
		t.Errorf("labels %v, annotations %v", dashboard.Labels, dashboard.Annotations)
	}
	var is, was any
	if err := json.Unmarshal([]byte(dashboard.Data["keyferry.json"]), &is); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(file(t, "dashboard.json"), &was); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(is, was) {
		t.Error("the ConfigMap has not what the file has")
	}

	if _, ok := mustRender(t, values)["PrometheusRule/keyferry"]; ok {
		t.Error("there is a PrometheusRule where the cluster does not know the kind")
	}
	for _, name := range []string{"PrometheusRule/keyferry", "ConfigMap/keyferry-dashboard"} {
		if _, ok := mustRender(t, "{}", prometheusOperator)[name]; ok {
			t.Errorf("there is a %s that nobody asked for", name)
		}
	}
}

func file(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(chartDir, "files", "monitoring", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestEvents: broker and controller may create Events, and nothing else about them. The webhook,
// which answers requests that anybody may send, may not.
func TestEvents(t *testing.T) {
	o := mustRender(t, "{}")
	for _, component := range components {
		written := 1
		if component == "webhook" {
			written = 0
		}
		for verb, want := range map[string]int{"create": written, "patch": written, "update": 0, "get": 0, "list": 0, "delete": 0} {
			if got := may(t, o, component, verb, "events"); len(got) < want || want == 0 && len(got) > 0 {
				t.Errorf("%s may %s Events in %q", component, verb, got)
			}
		}
	}
}
