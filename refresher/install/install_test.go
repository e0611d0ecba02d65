package install_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/refresher/install"
)

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to", "plugin")
	write(t, from, "new program")
	if err := os.Mkdir(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	// One that is running cannot be written to, but replaced.
	write(t, to, "old")
	if err := install.Copy(from, to); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(to)
	if err != nil || string(content) != "new program" {
		t.Errorf("the copy holds %q (%v)", content, err)
	}
	if info, err := os.Stat(to); err != nil || info.Mode() != 0o755 {
		t.Errorf("the copy is %v (%v)", info.Mode(), err)
	}
	alone(t, to)
}

func TestCopyFails(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	write(t, program, "program")
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "plugin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ from, to, want string }{
		"no program":   {filepath.Join(dir, "none"), filepath.Join(dir, "to"), "check its path in the image"},
		"a folder":     {taken, filepath.Join(dir, "to"), "is not a file"},
		"no directory": {program, filepath.Join(dir, "nowhere", "to"), "creating the copy"},
		"in the way":   {program, filepath.Join(taken, "plugin"), "putting the copy in place"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := install.Copy(test.from, test.to); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error that says %q", err, test.want)
			}
		})
	}
	alone(t, filepath.Join(taken, "plugin"))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// alone checks that there is no partial copy next to path.
func alone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside %s there are %v (%v)", path, entries, err)
	}
}
