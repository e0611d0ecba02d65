package main

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestEveryValue: no value of the chart is left out.
func TestEveryValue(t *testing.T) {
	t.Parallel()
	const file = "../../charts/keyferry/values.yaml"
	page, err := run([]string{"values", file})
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var defaults map[string]any
	if err := yaml.Unmarshal(content, &defaults); err != nil {
		t.Fatal(err)
	}
	for _, path := range leaves("", defaults) {
		if strings.Count(page, "\n| `"+path+"` |") != 1 {
			t.Errorf("%s has no row of its own", path)
		}
	}
}

func leaves(path string, values map[string]any) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if object, ok := values[name].(map[string]any); ok && len(object) > 0 {
			all = append(all, leaves(path+name+".", object)...)
		} else {
			all = append(all, path+name)
		}
	}
	return all
}

func TestValues(t *testing.T) {
	t.Parallel()
	page, err := values(`# Read by people.

# -- A section
# of two lines.
a:
  # What it | means.
  b: 1
  c: []
  #- an example

# -- Another.
d: {}
#  e: an example
`)
	if err != nil {
		t.Fatal(err)
	}
	const want = "\nA section\nof two lines.\n\n| value | default | meaning |\n| --- | --- | --- |\n| `a.b` | `1` | What it \\| means. |\n| `a.c` | `[]` |  |\n" +
		"\nAnother.\n\n| value | default | meaning |\n| --- | --- | --- |\n| `d` | `{}` |  |\n"
	if !strings.HasSuffix(page, want) {
		t.Errorf("got\n%s\nwant at its end\n%s", page, want)
	}
}

func TestAPI(t *testing.T) {
	t.Parallel()
	page, err := api([]string{`
spec:
  group: example.com
  names: {kind: Thing, plural: things, shortNames: [th]}
  versions:
  - name: v1
    schema:
      openAPIV3Schema:
        description: Thing is one.
        properties:
          spec:
            required: [type]
            properties:
              type: {type: string, enum: [A, B], default: A, description: Type of it}
              list:
                type: array
                maxItems: 3
                items: {type: object, properties: {at: {type: string, format: date-time}}}
              labels: {type: object, additionalProperties: {type: string}, x-kubernetes-validations: [{message: labels must be few}]}
`})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"## Thing\n\n`apiVersion: example.com/v1`, in `kubectl` also `things`, `th`\n\nThing is one.\n",
		"| `spec.type` | string | Type of it. Required. Default: `A`. One of `A`, `B`. |",
		"| `spec.list` | list of object | At most 3 elements. |",
		"| `spec.list[].at` | time |  |",
		"| `spec.labels` | map to string | Rule: labels must be few. |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
}

func TestCompatibility(t *testing.T) {
	t.Parallel()
	const before, after = "# Page\n\n" + compatibilityBegin, compatibilityEnd + "\n\nText.\n"
	const results = `{"versions": ["v1.30.14", "v1.31.14"], "runs": [
  {"management": "v1.30.14", "target": "v1.30.14", "date": "2026-11-30", "commit": "abc", "tests": {
    "TestRenewalGoesUnnoticed": {"result": "pass"}, "TestInitContainerAndJob": {"result": "pass"},
    "TestEndpointMove": {"result": "pass", "note": "keeps the old one"}, "TestProxy": {"result": "fail"}, "TestClientCertificate": {"result": "pass"}}},
  {"management": "v1.37.2", "target": "v1.30.14", "date": "2026-11-29", "commit": "abc", "tests": {}}]}`
	page, err := compatibility(results, before+"edited by hand\n"+after)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(page, before) || !strings.HasSuffix(page, after) || strings.Contains(page, "by hand") {
		t.Errorf("got\n%s", page)
	}
	for _, want := range []string{
		"| Kubernetes | seen | direct delivery | the endpoint changes | delivery by proxy | federation |",
		"| 1.30.14 | 2026-11-30 | yes | keeps the old one | **failed** | not seen |",
		"| 1.31.14 | not yet |  |",
		"| 1.37.2, targets with 1.30.14 | 2026-11-29 | not seen |",
	} {
		if !strings.Contains(page, "\n"+want) {
			t.Errorf("no row %s in\n%s", want, page)
		}
	}
	for name, broken := range map[string][2]string{"no section": {results, "# Page\n"}, "unknown field": {`{"version": []}`, before + after}} {
		if _, err := compatibility(broken[0], broken[1]); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
}
