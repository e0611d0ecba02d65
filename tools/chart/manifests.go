package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const generated = "# Written by `make generate` from charts/keyferry: change it there.\n"

// helmLabels begin lines that mean nothing without Helm.
var helmLabels = []string{"helm.sh/chart:", "app.kubernetes.io/managed-by:", "annotations: {helm.sh/resource-policy:"}

// writeManifests writes what the chart gives without values, one file for each template, and a
// kustomization of them. The CRDs are in ../crd.
func writeManifests(chart, out string) error {
	rendered, err := render(chart, options{})
	if err != nil {
		return err
	}
	if err := removeOld(out); err != nil {
		return err
	}
	resources := []string{"../crd", "namespace.yaml"}
	for _, template := range rendered.templates() {
		if isHelms(template) {
			continue
		}
		resources = append(resources, template)
		if err := write(filepath.Join(out, template), generated+withoutHelm(rendered[template])); err != nil {
			return err
		}
	}
	kustomization := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- " + strings.Join(resources, "\n- ") + "\n"
	return write(filepath.Join(out, "kustomization.yaml"), generated+kustomization)
}

// writeInstall writes install.yaml: the objects of config/default and the CRDs, in an order in
// which one kubectl apply creates them.
func writeInstall(chart, version, out string) error {
	rendered, err := render(chart, options{version: version})
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(chart, "files", "crd", "*.yaml"))
	if err != nil {
		return err
	}
	files = append([]string{filepath.Join(chart, "..", "..", "config", "default", "namespace.yaml")}, files...)
	var documents []string
	for _, file := range files {
		content, err := os.ReadFile(filepath.Clean(file))
		if err != nil {
			return fmt.Errorf("reading manifests: %w", err)
		}
		documents = append(documents, strings.TrimPrefix(string(content), "---\n"))
	}
	for _, template := range rendered.templates() {
		if !isHelms(template) {
			documents = append(documents, withoutHelm(rendered[template]))
		}
	}
	return write(filepath.Join(out, "install.yaml"), strings.Join(documents, "---\n"))
}

// isHelms reports whether a template is for Helm only: its hooks, and the CRDs with its
// annotations.
func isHelms(template string) bool {
	return template == "crds.yaml" || template == "uninstall-check.yaml" || strings.HasPrefix(template, "tests/")
}

// removeOld removes what an earlier run wrote, and nothing else.
func removeOld(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Clean(file))
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(content), generated) {
			continue
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// withoutHelm leaves out labels of Helm, and the blank lines that templates leave behind.
func withoutHelm(manifest string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(manifest) + "\n") {
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || slices.ContainsFunc(helmLabels, func(label string) bool { return strings.HasPrefix(trimmed, label) }) {
			continue
		}
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return strings.TrimPrefix(b.String(), "---\n")
}

func write(file, content string) error {
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		return fmt.Errorf("writing manifests: %w", err)
	}
	return nil
}
