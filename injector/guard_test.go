package injector

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestGuardKnowsTheLists compares lists of the injector with those in the policy keyferry-guard,
// which cannot import them.
func TestGuardKnowsTheLists(t *testing.T) {
	text, err := os.ReadFile("../config/default/guard.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var policy struct {
		Spec struct {
			Variables []struct{ Name, Expression string }
		}
	}
	first, _, _ := strings.Cut(string(text), "\n---\n")
	if err := yaml.Unmarshal([]byte(first), &policy); err != nil {
		t.Fatal(err)
	}
	lists := map[string][][]string{}
	for _, variable := range policy.Spec.Variables {
		for _, list := range regexp.MustCompile(`\[\s*'[^\]]*'\s*\]`).FindAllString(variable.Expression, -1) {
			var names []string
			for _, quoted := range regexp.MustCompile(`'[^']*'`).FindAllString(list, -1) {
				names = append(names, strings.Trim(quoted, "'"))
			}
			lists[variable.Name] = append(lists[variable.Name], names)
		}
	}
	for _, test := range []struct {
		variable string
		index    int
		want     []string
	}{
		{"unknown", 0, append(slices.Clone(options[:]), AnnotationStatus)},
		{"asking", 0, []string{AnnotationCluster, AnnotationClusterProfile, AnnotationCredentialRequest, AnnotationClusters}},
		{"chosen", 0, []string{RefresherContainer, CopierContainer, PluginContainer}},
		{"chosen", 1, proxies[:]},
		{"chosen", 2, executors[:]},
	} {
		if len(lists[test.variable]) <= test.index {
			t.Errorf("variable %s has %d lists", test.variable, len(lists[test.variable]))
			continue
		}
		if got := lists[test.variable][test.index]; !slices.Equal(sorted(got), sorted(test.want)) {
			t.Errorf("variable %s has %q, package injector %q", test.variable, got, test.want)
		}
	}
}

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }
