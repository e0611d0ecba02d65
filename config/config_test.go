// Package config_test installs config/default and the chart into a real API server.
package config_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/internal/testenv"
)

var cluster *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { cluster = cfg }))
}

func TestServerSideApply(t *testing.T) {
	t.Parallel()
	testenv.DependOn(t, "crd", "default")
	// The CRDs are there already, by the set-up of the API server.
	applied := kubectl(t, "apply", "--server-side", "--force-conflicts", "-k", "default")
	lines := strings.Split(strings.TrimSpace(applied), "\n")
	if got := strings.Count(applied, "serverside-applied"); got != len(lines) {
		t.Errorf("%d of %d lines say that an object was applied:\n%s", got, len(lines), applied)
	}
	for _, component := range []string{"webhook", "broker", "controller"} {
		kubectl(t, "get", "deployment/keyferry-"+component, "serviceaccount/keyferry-"+component, "-n", "keyferry-system")
	}
	if change := kubectl(t, "diff", "--server-side", "-k", "default"); change != "" {
		t.Errorf("applied again it would change\n%s", change)
	}
}

// TestHelm: the API server accepts the chart's objects with each of ci/*-values.yaml, at
// installation and at an upgrade.
func TestHelm(t *testing.T) {
	t.Parallel()
	const chart = "../charts/keyferry"
	testenv.DependOn(t, chart)
	server := testenv.Target(t, "")
	if err := testenv.InstallCertManager(server); err != nil {
		t.Fatal(err)
	}
	for _, namespace := range []string{"fleet", "app", "argocd"} {
		succeed(t, testenv.Kubectl(t, server, ".", "create", "namespace", namespace))
	}
	files, err := filepath.Glob(chart + "/ci/*-values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no values", err)
	}
	for _, file := range files {
		for range 2 {
			succeed(t, testenv.Helm(t, server, ".", "upgrade", "--install", "keyferry", chart, "-n", "keyferry-system", "--create-namespace", "-f", file))
		}
		succeed(t, testenv.Helm(t, server, ".", "uninstall", "keyferry", "-n", "keyferry-system", "--no-hooks")) // no node runs the hook
	}
	// Without image volumes the chart rejects one; the API server would, with many lines.
	out, err := testenv.Helm(t, server, ".", "install", "keyferry", chart, "-n", "keyferry-system",
		"--set", "broker.extraVolumes[0].name=plugins", "--set", "broker.extraVolumes[0].image.reference=example.com/plugin:v1").CombinedOutput()
	const sentence = `broker.extraVolumes: volume "plugins" is an image, which needs Kubernetes 1.35`
	if has := testenv.Has(testenv.ImageVolume); has != (err == nil) || has == strings.Contains(string(out), sentence) {
		t.Errorf("image volumes %t: %v\n%s", has, err, out)
	}
}

// kubectl returns what kubectl prints that is run as an administrator in this folder.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return succeed(t, testenv.Kubectl(t, cluster, ".", args...))
}

// succeed returns what a command prints.
func succeed(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}
