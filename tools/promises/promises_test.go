package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRepository: each test of each row of the threat model has a patch or a reason, and each patch
// has a row.
func TestRepository(t *testing.T) {
	found, err := read("../..")
	if err != nil {
		t.Fatal(err)
	}
	if err := found.check(); err != nil {
		t.Error(err)
	}
}

// TestPatchesApply: a change of code that a patch is for changes the patch, too.
func TestPatchesApply(t *testing.T) {
	found, err := read("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found.patches {
		if err := apply("../..", p.file, "--check"); err != nil {
			t.Errorf("patch %s: %v", p.name, err)
		}
	}
}

const page = `
| promise | shown by |
|---|---|
| The webhook cannot read a Secret | [a](../a/a_test.go) ` + "`TestA`, `TestB`, [b](../b/b_test.go) `TestC`" + ` |
| Such a failure does not write one | [a](../a/a_test.go) ` + "`TestD`" + ` |

| who | may |
|---|---|
| all | read |
`

// wantError fails the test unless err contains want; nil if want is empty.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestCheck(t *testing.T) {
	rows := parseRows(page)
	if len(rows) != 2 || strings.Join(rows[0].tests, ",") != "a TestA,a TestB,b TestC" {
		t.Fatalf("rows %q", rows)
	}
	good := patch{name: "p", failures: []failure{{"read", "a", "TestA", ""}, {"read", "b", "TestC", ""}}}
	of := func(promise, directory, test string) []patch {
		return []patch{good, {name: "q", failures: []failure{{promise, directory, test, ""}}}}
	}
	reasons := []exception{{"a TestB", "slow"}, {"write", "no"}}
	again := row{promise: "list", tests: []string{"a TestA", "a TestB"}}
	for want, c := range map[string]contents{
		"":                                  {rows, []patch{good}, reasons},
		`"write one" has no patch for a Te`: {rows, []patch{good}, reasons[:1]},
		`a Secret" has no patch for a Test`: {rows, []patch{good}, reasons[1:]},
		`"list" has no patch for a TestA`:   {append(rows, again), []patch{good}, reasons}, // another row has
		`b TestC has a patch: remove`:       {rows, []patch{good}, append(reasons, exception{"b TestC", "no"})},
		`read a Sec has a patch: remove`:    {rows, []patch{good}, append(reasons, exception{"read a Sec", "no"})},
		`no row that begins`:                {rows, []patch{good}, append(reasons, exception{"delete", "no"})},
		`does not name the test a Te`:       {rows, of("write", "a", "TestA"), reasons[:1]},
		`several rows begin with`:           {append(rows, row{promise: "read more"}), []patch{good}, reasons},
		`"list" names no test`:              {append(rows, row{promise: "list"}), []patch{good}, reasons},
	} {
		wantError(t, c.check(), want)
	}
}

func TestParsePatch(t *testing.T) {
	const header = "Promise: read a Secret\nTest: a TestA\nFails: got: 200\nTest: b TestB\nFails: 1\nPromise: write\nTest: a TestA\nFails: 2\n"
	p, err := parsePatch(header + "\ndiff --git a/x b/x\n")
	want := []failure{{"read a Secret", "a", "TestA", "got: 200"}, {"read a Secret", "b", "TestB", "1"}, {"write", "a", "TestA", "2"}}
	if err != nil || !slices.Equal(p.failures, want) {
		t.Errorf("%+v, %v", p, err)
	}
	for _, text := range []string{
		"", header, "Promise: read\n\ndiff --git a/x b/x\n", "Test: a TestA\nFails: 1\n\ndiff --git a/x b/x\n",
		"Promise: read\nTest: a TestA\nTest: a TestB\nFails: 1\n\ndiff --git a/x b/x\n",
	} {
		if _, err := parsePatch(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

// TestOutput: only a test that fails for the stated reason shows a promise.
func TestOutput(t *testing.T) {
	event := func(action, test, output string) string {
		text, err := json.Marshal(map[string]string{"Action": action, "Test": test, "Output": output})
		if err != nil {
			t.Fatal(err)
		}
		return string(text) + "\n"
	}
	passed := event("run", "TestA", "") + event("output", "TestA", "--- PASS: TestA (0.00s)\n") + event("pass", "TestA", "")
	failed := event("fail", "TestA/sub", "") + event("fail", "TestA", "") + event("fail", "", "")
	f := failure{"read", "a", "TestA", "got 200"}
	for name, test := range map[string]struct{ output, baseline, patched string }{
		"passes":       {passed, "", "a TestA passes without the protection"},
		"fails":        {event("output", "TestA", "got 200\n") + failed, "a TestA does not pass", ""},
		"subtest":      {event("output", "TestA/sub", "got 200\n") + failed, "a TestA does not pass", ""},
		"another way":  {event("output", "TestA", "got 503\n") + failed, "a TestA does not pass", `does not print "got 200"`},
		"another says": {event("output", "TestAB", "got 200\n") + failed, "a TestA does not pass", `does not print "got 200"`},
		"another":      {event("output", "TestAB", "got 200\n") + event("fail", "TestAB", ""), "a TestA does not pass", "a TestA did not run"},
		"no build":     {event("build-output", "", "# a\na.go:1: got 200\n") + event("build-fail", "", "") + event("fail", "", ""), "a TestA does not pass", "a TestA did not run"},
		"no JSON":      {"# a\na.go:1: got 200\n", "a TestA does not pass without a patch: # a", "a TestA did not run: # a"},
		"panic":        {event("output", "TestA", "got 200\n") + event("output", "TestA", "panic: nil [recovered]\n") + failed, "a TestA does not pass", "a TestA panics"},
		"timeout":      {event("output", "TestA", "got 200\n") + event("output", "TestA", "panic: test timed out after 10m0s\n"), "a TestA does not pass", "a TestA panics or takes too long"},
		"skipped":      {event("skip", "TestA", ""), "a TestA does not pass", "a TestA did not run"},
		"says both":    {event("output", "TestA", "got 200\n") + passed, `prints "got 200" although it passes`, "a TestA passes"},
	} {
		t.Run(name, func(t *testing.T) {
			found := parseResults(test.output)
			wantError(t, f.checkBaseline(found), test.baseline)
			wantError(t, f.check(found), test.patched)
		})
	}
}

// repository is a repository with one promise, a test of it, and two patches: negative removes the
// protection, comment does not.
var repository = map[string]string{
	".gitignore":                    "/dist/\n",
	"go.mod":                        "module example.com/a\n\ngo 1.26\n",
	"a/a.go":                        "package a\n\n// Abs returns the absolute value.\nfunc Abs(n int) int {\n\tif n < 0 {\n\t\treturn -n\n\t}\n\treturn n\n}\n",
	"a/a_test.go":                   "package a\n\nimport \"testing\"\n\nfunc TestAbs(t *testing.T) {\n\tif got := Abs(-1); got != 1 {\n\t\tt.Errorf(\"got %d\", got)\n\t}\n}\n",
	"docs/security.md":              "| promise | shown by |\n|---|---|\n| Abs does not return a negative number | [a](../a/a_test.go) `TestAbs` |\n",
	"tools/promises/exceptions.txt": "# none\n",
	"tools/promises/patches/negative.patch": "Promise: return a negative\nTest: a TestAbs\nFails: got -1\n\n" +
		"diff --git a/a/a.go b/a/a.go\n--- a/a/a.go\n+++ b/a/a.go\n@@ -5,3 +5,3 @@\n \tif n < 0 {\n-\t\treturn -n\n+\t\treturn n\n \t}\n",
	"tools/promises/patches/comment.patch": "Promise: return a negative\nTest: a TestAbs\nFails: got -1\n\n" +
		"diff --git a/a/a.go b/a/a.go\n--- a/a/a.go\n+++ b/a/a.go\n@@ -2,3 +2,3 @@\n \n-// Abs returns the absolute value.\n+// Abs returns a value.\n func Abs(n int) int {\n",
}

// commit writes files to a repository and commits all.
func commit(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o750), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, arguments := range [][]string{{"init"}, {"add", "--all"}, {"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-m", "a"}} {
		if _, err := output(root, "git", arguments...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRun: a run reports which patches are wrong. The next run at the same commit tries only these.
func TestRun(t *testing.T) {
	root := t.TempDir()
	commit(t, root, repository)
	try := func(ctx context.Context, wantErr string, want ...string) {
		t.Helper()
		var out strings.Builder
		wantError(t, run(ctx, &out, []string{root}), wantErr)
		for _, text := range want {
			if !strings.Contains(out.String(), text) {
				t.Errorf("no %q in:\n%s", text, out.String())
			}
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	try(stopped, "stopped: the next run at this commit continues", "0 of 2 patches")
	const wrong = "a TestAbs passes without the protection"
	try(t.Context(), "wrong: comment", "ok        negative (", "WRONG     comment (", wrong, "2 of 2 patches", "1 are wrong")
	try(t.Context(), "wrong: comment", "1 patches are done", wrong)
	if err := os.Remove(filepath.Join(root, "tools", "promises", "patches", "comment.patch")); err != nil {
		t.Fatal(err)
	}
	commit(t, root, nil)
	try(t.Context(), "", "1 of 1 patches", "0 are wrong")
	try(t.Context(), "", "ok        negative (") // all again
}

// TestProgress: a run continues only at the same commit, and only where another was stopped.
func TestProgress(t *testing.T) {
	root := t.TempDir()
	open := func(want bool) *progress {
		t.Helper()
		p, err := openProgress(root)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.contains("guard"); got != want {
			t.Errorf("done: %v, want %v", got, want)
		}
		return p
	}
	commit(t, root, map[string]string{".gitignore": "/dist/\n"})
	wantError(t, open(false).add("guard"), "")
	wantError(t, open(true).add("audience"), "")
	open(true)
	if err := os.WriteFile(filepath.Join(root, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, open(false).add("guard"), "") // with changes, nothing is remembered
	wantError(t, open(false).remove(), "")
	commit(t, root, nil)
	open(false)
	if _, err := output(root, "git", "checkout", "HEAD~1"); err != nil {
		t.Fatal(err)
	}
	wantError(t, open(true).remove(), "")
	wantError(t, open(false).remove(), "")
}
