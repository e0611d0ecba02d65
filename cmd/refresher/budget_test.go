package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// programBudget is how many bytes the program may have, for linux/amd64, as it is released: it is
// on every node, and read into memory there. What makes it grow shows in `go tool nm -size -sort
// size`.
const programBudget = 7_500_000

// asReleased is for the platform that the budget and the list are of.
func asReleased(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return cmd
}

func TestProgramStaysSmall(t *testing.T) {
	dir := t.TempDir()
	if err := asReleased(t, "tools/build", "v0.1.0", dir, "./cmd/refresher").Run(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "refresher"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > programBudget {
		t.Errorf("the program has %d bytes, and may have %d", info.Size(), programBudget)
	}
}

// TestImports: a package joins the program of every Pod only on purpose, one that is not of the
// standard library above all. Packages that the standard library keeps to itself come and go with
// its versions, and are not listed.
func TestImports(t *testing.T) {
	all, err := asReleased(t, "go", "list", "-deps", "./cmd/refresher").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(strings.Fields(string(all)), func(path string) bool {
		return !isOurs(path) && slices.ContainsFunc(strings.Split(path, "/"), func(part string) bool { return part == "internal" || part == "vendor" })
	})
	slices.Sort(got)
	const file = "testdata/imports.txt"
	if *update {
		if err := os.WriteFile(file, []byte(strings.Join(got, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	listed := strings.Fields(string(text))
	for _, path := range got {
		switch first, _, _ := strings.Cut(path, "/"); {
		case !isOurs(path) && strings.Contains(first, "."):
			t.Errorf("%s is not of the standard library", path)
		case !slices.Contains(listed, path):
			t.Errorf("%s has joined: if it is worth its bytes in every Pod, run this test with -update", path)
		}
	}
	for _, path := range listed {
		if !slices.Contains(got, path) {
			t.Errorf("%s is not imported any more: run this test with -update", path)
		}
	}
}

func isOurs(path string) bool { return strings.HasPrefix(path, "github.com/keyferry/keyferry/") }
