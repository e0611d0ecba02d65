// Package config_test installs config/default into a real API server.
package config_test

import (
	"os"
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

// kubectl returns what kubectl prints that is run as an administrator in this folder.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	cmd := testenv.Kubectl(t, cluster, ".", args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}
