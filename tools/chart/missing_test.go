package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	sigsyaml "sigs.k8s.io/yaml"
)

// TestMissingValues: a value that is missing, as after helm upgrade --reuse-values if the older
// chart did not have it, counts as its default, or rendering fails and says what to do.
func TestMissingValues(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]any{}
	if err := sigsyaml.Unmarshal(text, &defaults); err != nil {
		t.Fatal(err)
	}
	expected, err := render(chartDir, options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths(defaults, nil) {
		t.Run(strings.Join(path, "."), func(t *testing.T) {
			t.Parallel()
			var values any
			for _, key := range slices.Backward(path) {
				values = map[string]any{key: values}
			}
			text, err := sigsyaml.Marshal(values)
			if err != nil {
				t.Fatal(err)
			}
			switch got, err := render(chartDir, options{values: string(text)}); {
			case err != nil && !strings.Contains(err.Error(), "is missing: upgrade with --reset-then-reuse-values"):
				t.Errorf("got %v", err)
			case err == nil && !maps.Equal(got, expected):
				t.Error("it is rendered otherwise")
			}
		})
	}
}

// paths returns the paths of all values. Users remove entries of some objects on purpose.
func paths(values map[string]any, parent []string) [][]string {
	var all [][]string
	for key, value := range values {
		if slices.Contains([]string{"nodeSelector", "resources"}, key) && !slices.Equal(parent, []string{"refresher"}) {
			continue
		}
		path := append(slices.Clone(parent), key)
		all = append(all, path)
		if object, ok := value.(map[string]any); ok && key != "resources" && key != "configurationAnnotations" {
			all = append(all, paths(object, path)...)
		}
	}
	return all
}
