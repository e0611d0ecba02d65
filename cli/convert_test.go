package cli

import (
	"os"
	"strings"
	"testing"
)

func TestConvert(t *testing.T) {
	input, err := os.ReadFile("convert/testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("convert/testdata/full.golden.yaml")
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := keyferry(t, string(input), "convert", "-f", "-")
	if code != ExitOK || stdout != string(want) {
		t.Errorf("got exit code %d and:\n%s", code, stdout)
	}
	if !strings.HasPrefix(stderr, "warning: TargetCluster fleet/tenant-1.robots.robot: spec.access.kubeconfig.name is the placeholder") {
		t.Errorf("got on standard error: %s", stderr)
	}
}

func TestConvertNamespaceOfTheCommandLine(t *testing.T) {
	code, stdout, _ := keyferry(t, "", "convert", "-f", "convert/testdata/same-cluster.yaml", "-n", "mine")
	if code != ExitOK || !strings.Contains(stdout, "namespace: mine\n") || strings.Contains(stdout, "namespace: default\n") {
		t.Errorf("got exit code %d and:\n%s", code, stdout)
	}
}

func TestConvertPrintsNothingIfAnythingIsWrong(t *testing.T) {
	tests := map[string]struct {
		stdin string
		args  []string
		code  int
		want  string
	}{
		"other kind": {"{apiVersion: v1, kind: Secret}", []string{"-f", "convert/testdata/full.yaml", "-f", "-"}, ExitFailed, "-: document 1 is v1 Secret"},
		"no file":    {"", []string{"-f", "convert/testdata/full.yaml,none.yaml"}, ExitFailed, "none.yaml: no such file"},
		"no flag":    {"", nil, ExitUsage, "filename"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := keyferry(t, test.stdin, append([]string{"convert"}, test.args...)...)
			if code != test.code || stdout != "" || !strings.Contains(stderr, test.want) {
				t.Errorf("got exit code %d, %q, %s", code, stdout, stderr)
			}
		})
	}
}
