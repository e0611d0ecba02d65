package refresher

import (
	"os/exec"
	"strings"
	"testing"
)

// TestStandardLibraryOnly holds what makes the refresher small enough to be in every Pod.
func TestStandardLibraryOnly(t *testing.T) {
	const module = "github.com/keyferry/keyferry/"
	allowed := map[string]bool{
		module + "broker/wire":        true,
		module + "cmd/refresher":      true,
		module + "internal/version":   true,
		module + "providers":          true,
		module + "providers/expiry":   true,
		module + "providers/plugin":   true,
		module + "refresher":          true,
		module + "refresher/cabundle": true,
		module + "refresher/clusters": true,
		module + "refresher/fileset":  true,
		module + "refresher/install":  true,
		module + "refresher/proxy":    true,
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", module+"cmd/refresher")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	found := strings.Fields(string(out))
	if len(found) != len(allowed) {
		t.Errorf("cmd/refresher is made of %q", found)
	}
	for _, path := range found {
		if !allowed[path] {
			t.Errorf("cmd/refresher depends on %s", path)
		}
	}
}
