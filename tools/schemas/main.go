// Schemas writes JSON schemas for kubeconform from what Kubernetes and Keyferry publish themselves,
// so that manifests are checked alike with and without a network:
//
//	schemas -out DIR [-openapi KUBERNETES/api/openapi-spec/v3] [CRD.yaml...]
//
// kubeconform finds them with -schema-location
// 'DIR/{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json'. They are strict: an unknown
// field is an error.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

type object = map[string]any

func main() {
	out := flag.String("out", "", "folder to write to")
	openapi := flag.String("openapi", "", "folder with the OpenAPI v3 documents of Kubernetes (default: none)")
	flag.Parse()
	if err := run(*out, *openapi, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(out, openapi string, crds []string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	var documents []string
	if openapi != "" {
		var err error
		if documents, err = filepath.Glob(filepath.Join(openapi, "api*__*_openapi.json")); err != nil {
			return err
		}
		if len(documents) == 0 {
			return fmt.Errorf("no OpenAPI documents in %q", openapi)
		}
	}
	for _, document := range documents {
		if err := writeDocument(out, document); err != nil {
			return fmt.Errorf("reading %s: %w", document, err)
		}
	}
	for _, crd := range crds {
		if err := writeCRD(out, crd); err != nil {
			return fmt.Errorf("reading %s: %w", crd, err)
		}
	}
	return nil
}

// writeDocument writes a schema for each kind of one group and version.
func writeDocument(out, document string) error {
	content, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	var api struct {
		Components struct {
			Schemas map[string]object `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(content, &api); err != nil {
		return err
	}
	for _, schema := range api.Components.Schemas {
		makeStrict(schema)
	}
	for name, schema := range api.Components.Schemas {
		kinds, _ := schema["x-kubernetes-group-version-kind"].([]any)
		// Types like DeleteOptions are of every group; they are in no manifest.
		if len(kinds) != 1 {
			continue
		}
		kind, _ := kinds[0].(object)
		root := object{"$ref": "#/components/schemas/" + name, "components": api.Components}
		if err := write(out, fmt.Sprint(kind["group"]), fmt.Sprint(kind["version"]), fmt.Sprint(kind["kind"]), root); err != nil {
			return err
		}
	}
	return nil
}

// writeCRD writes a schema for each version of a custom resource.
func writeCRD(out, file string) error {
	content, err := os.ReadFile(filepath.Clean(file))
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Group string `json:"group"`
			Names struct {
				Kind string `json:"kind"`
			} `json:"names"`
			Versions []struct {
				Name   string `json:"name"`
				Schema struct {
					OpenAPIV3Schema object `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(content, &crd); err != nil {
		return err
	}
	for _, version := range crd.Spec.Versions {
		schema := version.Schema.OpenAPIV3Schema
		if properties, ok := schema["properties"].(object); ok {
			properties["metadata"] = object{"type": "object"}
		}
		makeStrict(schema)
		if err := write(out, crd.Spec.Group, version.Name, crd.Spec.Names.Kind, schema); err != nil {
			return err
		}
	}
	return nil
}

// makeStrict forbids unknown fields wherever fields are listed, and translates what OpenAPI says
// otherwise than JSON schema.
func makeStrict(schema object) {
	properties, listed := schema["properties"].(object)
	if _, open := schema["additionalProperties"]; listed && !open && schema["x-kubernetes-preserve-unknown-fields"] == nil {
		schema["additionalProperties"] = false
	}
	if schema["x-kubernetes-int-or-string"] == true || schema["format"] == "int-or-string" {
		delete(schema, "type")
		delete(schema, "format")
	}
	// An empty default, such as {} for a time, would be checked against its format.
	delete(schema, "default")
	for _, property := range properties {
		makeStrictIfObject(property)
	}
	for _, key := range []string{"items", "additionalProperties", "not"} {
		makeStrictIfObject(schema[key])
	}
}

func makeStrictIfObject(value any) {
	if schema, ok := value.(object); ok {
		makeStrict(schema)
	}
}

func write(dir, group, version, kind string, schema object) error {
	if group == "" {
		group = version // as kubeconform says it of the core group
	}
	content, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	name := strings.ToLower(group + "_" + version + "_" + kind + ".json")
	return os.WriteFile(filepath.Join(dir, name), content, 0o644)
}
