package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

type schema struct {
	Description          string            `json:"description"`
	Type                 string            `json:"type"`
	Format               string            `json:"format"`
	Default              json.RawMessage   `json:"default"`
	Enum                 []string          `json:"enum"`
	Minimum              *int              `json:"minimum"`
	Maximum              *int              `json:"maximum"`
	MaxLength            *int              `json:"maxLength"`
	MaxItems             *int              `json:"maxItems"`
	Required             []string          `json:"required"`
	Properties           map[string]schema `json:"properties"`
	Items                *schema           `json:"items"`
	AdditionalProperties *schema           `json:"additionalProperties"`
	Rules                []struct {
		Message string `json:"message"`
	} `json:"x-kubernetes-validations"`
}

type definition struct {
	Spec struct {
		Group string `json:"group"`
		Names struct {
			Kind       string   `json:"kind"`
			Plural     string   `json:"plural"`
			ShortNames []string `json:"shortNames"`
		} `json:"names"`
		Versions []struct {
			Name   string `json:"name"`
			Schema struct {
				OpenAPIV3Schema schema `json:"openAPIV3Schema"`
			} `json:"schema"`
		} `json:"versions"`
	} `json:"spec"`
}

// api is the page on custom resources, in the order of their kinds.
func api(crds []string) (string, error) {
	var definitions []definition
	for _, crd := range crds {
		var d definition
		if err := yaml.Unmarshal([]byte(crd), &d); err != nil {
			return "", fmt.Errorf("reading a CRD: %w", err)
		}
		definitions = append(definitions, d)
	}
	slices.SortFunc(definitions, func(a, b definition) int { return strings.Compare(a.Spec.Names.Kind, b.Spec.Names.Kind) })
	var b strings.Builder
	b.WriteString("# API reference\n\n<!-- Written by `make generate` from api/v1alpha1: change it there. -->\n\n")
	b.WriteString("Every field of Keyferry's custom resources. `[]` after a name means each element of a list. Conditions have the fields of\n" +
		"all Kubernetes conditions: `type`, `status`, `reason`, `message`, `observedGeneration` and `lastTransitionTime`.\n" +
		"These pages explain the fields with examples: [TargetCluster](targetcluster.md), [CredentialRequest](credentialrequest.md).\n")
	for _, d := range definitions {
		for _, version := range d.Spec.Versions {
			root := version.Schema.OpenAPIV3Schema
			names := d.Spec.Names
			fmt.Fprintf(&b, "\n## %s\n\n`apiVersion: %s/%s`, in `kubectl` also `%s`\n\n%s\n",
				names.Kind, d.Spec.Group, version.Name, strings.Join(append([]string{names.Plural}, names.ShortNames...), "`, `"), paragraph(root.Description))
			for _, part := range []string{"spec", "status"} {
				property, ok := root.Properties[part]
				if !ok {
					continue
				}
				fmt.Fprintf(&b, "\n### %s of a %s\n\n%s\n\n%s%s", part, names.Kind, paragraph(property.Description), row("field", "type", "meaning"), row("---", "---", "---"))
				fields(&b, part, property)
			}
		}
	}
	return b.String(), nil
}

// fields writes a row for each field below path, and below each of them.
func fields(b *strings.Builder, path string, s schema) {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		property := s.Properties[name]
		meaning := []string{paragraph(property.Description)}
		if slices.Contains(s.Required, name) {
			meaning = append(meaning, "Required.")
		}
		meaning = append(meaning, constraints(property)...)
		b.WriteString(row(code(path+"."+name), kind(property), strings.Join(meaning, " ")))
		switch {
		case name == "conditions": // their fields are those of Kubernetes
		case property.Items != nil:
			fields(b, path+"."+name+"[]", *property.Items)
		default:
			fields(b, path+"."+name, property)
		}
	}
}

// constraints are sentences on what the API server takes.
func constraints(s schema) []string {
	var all []string
	if len(s.Default) > 0 {
		all = append(all, "Default: "+code(strings.Trim(string(s.Default), `"`))+".")
	}
	if len(s.Enum) > 0 {
		all = append(all, "One of `"+strings.Join(s.Enum, "`, `")+"`.")
	}
	for _, limit := range []struct {
		value  *int
		format string
	}{
		{s.Minimum, "At least %d."},
		{s.Maximum, "At most %d."},
		{s.MaxLength, "At most %d characters."},
		{s.MaxItems, "At most %d elements."},
	} {
		if limit.value != nil {
			all = append(all, fmt.Sprintf(limit.format, *limit.value))
		}
	}
	for _, rule := range s.Rules {
		all = append(all, "Rule: "+rule.Message+".")
	}
	return all
}

// kind says what the value is, in a word or two.
func kind(s schema) string {
	switch {
	case s.Items != nil:
		return "list of " + kind(*s.Items)
	case s.AdditionalProperties != nil:
		return "map to " + kind(*s.AdditionalProperties)
	case s.Format == "date-time":
		return "time"
	case s.Format == "byte":
		return "base64"
	default:
		return s.Type
	}
}

// paragraph is a description on one line, with a full stop.
func paragraph(description string) string {
	text := strings.Join(strings.Fields(description), " ")
	if text != "" && !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
