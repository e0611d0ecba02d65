package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ values, want string }{
		{"secretAcces: {}", "secretAcces"},
		{"webhook: {replica: 3}", "replica"},
		{"broker: {timeoutSeconds: 3}", "timeoutSeconds"},
		{"image: {version: v1}", "version"},
		{"image: {digest: sha256}", "digest"},
		{"certificates: {mode: certmanager}", "mode"},
		{"certificates: {mode: provided}", "webhookSecret"},
		{"secretAccess: {namespaces: [Fleet]}", "namespaces"},
		{"secretAccess: {namespaces: [fleet, keyferry-system]}", "must not list keyferry-system"},
		{"maxCredentialLifetime: 30", "maxCredentialLifetime"},
		{"commonLabels: {app.kubernetes.io/name: x}", "app.kubernetes.io/name"},
		{"tolerations: [{key: a, efect: NoSchedule}]", "efect"},
		{"topologySpreadConstraints: [{topologyKey: zone}]", "maxSkew"},
		{"env: [{name: A, valueFrom: {secretRef: {name: a}}}]", "secretRef"},
		{"controller: {extraVolumeMounts: [{name: a, path: /a}]}", "path"},
		{"networkPolicy: {egress: {refresher: []}}", "refresher"},
		{"metrics: {serviceMonitor: {enable: true}}", "enable"},
		{"podDisruptionBudget: {minAvailable: 1}", "minAvailable"},
		{"providerFile: {providers: [{name: a, execConfig: {apiVersion: client.authentication.k8s.io/v1, command: a}}]}", "command"},
	} {
		_, err := render(chartDir, options{values: test.values})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want something about %s", test.values, err, test.want)
		}
	}
}

// open are the values below which names are the users' or Kubernetes' own.
var open = []string{
	"global", "ambientIdentity.serviceAccountAnnotations", "commonLabels", "labels", "annotations", "nodeSelector", "podAnnotations", "podLabels",
	"deploymentAnnotations", "configurationAnnotations", "requests", "limits", "matchLabels", "namespaceLabels", "relabelings[]", "metricRelabelings[]", "extraVolumes[]",
	"ipBlock", "to[]", "ports[]", "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution[]",
}

// TestSchemaIsWhole holds that the schema knows each value of values.yaml and no other, and that it
// is closed wherever it can be.
func TestSchemaIsWhole(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var root schema
	if err := json.Unmarshal(content, &root); err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if content, err = os.ReadFile(filepath.Join(chartDir, "values.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	delete(root.Properties, "global")
	compare(t, "", root, values, root.Definitions)
	checkClosed(t, "", root, root.Definitions)
}

type schema struct {
	Ref                  string            `json:"$ref"`
	Type                 any               `json:"type"`
	Properties           map[string]schema `json:"properties"`
	Items                *schema           `json:"items"`
	AdditionalProperties json.RawMessage   `json:"additionalProperties"`
	Definitions          map[string]schema `json:"definitions"`
}

func (s schema) resolve(definitions map[string]schema) schema {
	if name, ok := strings.CutPrefix(s.Ref, "#/definitions/"); ok {
		return definitions[name]
	}
	return s
}

// compare looks at what is listed in both, down to where values.yaml has nothing, such as an empty
// list.
func compare(t *testing.T, path string, s schema, values map[string]any, definitions map[string]schema) {
	t.Helper()
	for name, property := range s.Properties {
		value, ok := values[name]
		if !ok {
			t.Errorf("%s%s is in the schema, but not in values.yaml", path, name)
		}
		if inner, ok := value.(map[string]any); ok && len(inner) > 0 {
			if property = property.resolve(definitions); len(property.Properties) > 0 {
				compare(t, path+name+".", property, inner, definitions)
			}
		}
	}
	for name := range values {
		if _, ok := s.Properties[name]; !ok {
			t.Errorf("%s%s is in values.yaml, but not in the schema", path, name)
		}
	}
}

func checkClosed(t *testing.T, path string, s schema, definitions map[string]schema) {
	t.Helper()
	s = s.resolve(definitions)
	name := path[strings.LastIndexByte(path, '.')+1:]
	isOpen := slices.Contains(open, name) || slices.Contains(open, path)
	if types, _ := json.Marshal(s.Type); strings.Contains(string(types), `"object"`) && string(s.AdditionalProperties) != "false" && !isOpen {
		t.Errorf("%s takes any name", path)
	}
	for property, inner := range s.Properties {
		checkClosed(t, strings.TrimPrefix(path+"."+property, "."), inner, definitions)
	}
	if s.Items != nil {
		checkClosed(t, path+"[]", *s.Items, definitions)
	}
}
