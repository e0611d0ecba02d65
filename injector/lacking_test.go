package injector_test

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/injector"
)

func lacking(t *testing.T, raw []byte) ([]string, error) {
	t.Helper()
	pod, err := injector.DecodePod(raw)
	if err != nil {
		t.Fatal(err)
	}
	return injector.Lacking(pod)
}

// TestLackingNothing checks that an injected Pod lacks nothing, for all installations.
func TestLackingNothing(t *testing.T) {
	pods := map[string][]byte{}
	for name, raw := range cases(t) {
		if first, err := installationOf(name).inject(raw); err == nil && len(first.Operations) > 0 {
			pods[name] = apply(t, raw, first.Operations)
		}
	}
	files, err := filepath.Glob("testdata/released/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		pods[file] = readJSON(t, file)
	}
	for name, raw := range pods {
		t.Run(name, func(t *testing.T) {
			if got, err := lacking(t, raw); err != nil || len(got) > 0 {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// notJudged are fields whose original value cannot be derived from the Pod, and the label, which
// can be restored.
var notJudged = regexp.MustCompile(`^metadata labels|^spec initContainers keyferry-\S+ (args \d+|resources|env)\b|/local\b|KUBECONFIG value|KEYFERRY_NO_PROXY valueFrom .`)

// TestLacking checks that Lacking reports everything that is removed from an injected Pod.
func TestLacking(t *testing.T) {
	for name, raw := range cases(t) {
		first, err := installationOf(name).inject(raw)
		if err != nil {
			continue // golden
		}
		injected := apply(t, raw, first.Operations)
		for _, f := range written("", tree(t, raw), tree(t, injected)) {
			if notJudged.MatchString(strings.Join(f.generic(func(string) bool { return true }), " ")) {
				continue
			}
			t.Run(name+"/"+strings.Join(f, " "), func(t *testing.T) {
				raw, err := json.Marshal(f.edit("", tree(t, injected), func(any) any { return nil }))
				if err != nil {
					t.Fatal(err)
				}
				if got, err := lacking(t, raw); err == nil && len(got) == 0 {
					t.Error("nothing is missed")
				}
			})
		}
	}
}

func TestLackingNames(t *testing.T) {
	raw := apply(t, cases(t)["minimal"], mustInject(t, "minimal"))
	for name, test := range map[string]struct {
		op   injector.Operation
		want string
	}{
		"rules of the sidecar": {injector.Operation{Op: "remove", Path: "/spec/initContainers/0/restartPolicyRules"}, "init container keyferry-refresher: restartPolicyRules"},
		"the sidecar":          {injector.Operation{Op: "remove", Path: "/spec/initContainers"}, "init container keyferry-refresher"},
		"a container":          {injector.Operation{Op: "replace", Path: "/spec/containers/0/name", Value: "other"}, "container app"},
		"a volume":             {injector.Operation{Op: "remove", Path: "/spec/volumes/0"}, "volume keyferry-credentials"},
		"a variable":           {injector.Operation{Op: "remove", Path: "/spec/containers/0/env/0/valueFrom"}, "container app: env"},
		"a mount":              {injector.Operation{Op: "remove", Path: "/spec/containers/0/volumeMounts/0/subPath"}, "container app: volumeMounts"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := lacking(t, apply(t, raw, []injector.Operation{test.op}))
			if err != nil || !slices.Equal(got, []string{test.want}) {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

func mustInject(t *testing.T, name string) []injector.Operation {
	t.Helper()
	result, err := installationOf(name).inject(cases(t)[name])
	if err != nil {
		t.Fatal(err)
	}
	return result.Operations
}
