package main

import (
	"slices"
	"strings"
	"testing"
)

// TestRepository: each row of the threat model and each of its tests has a patch or a reason, and
// each patch a row.
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
		if err := apply(t.Context(), "../..", p.file, "--check"); err != nil {
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
	for want, c := range map[string]contents{
		"":                               {rows, []patch{good}, reasons},
		`"write one" has no patch`:       {rows, []patch{good}, reasons[:1]},
		`"a TestB" has no patch`:         {rows, []patch{good}, reasons[1:]},
		`b TestC has a patch: remove`:    {rows, []patch{good}, append(reasons, exception{"b TestC", "no"})},
		`read a Sec has a patch: remove`: {rows, []patch{good}, append(reasons, exception{"read a Sec", "no"})},
		`no row that begins`:             {rows, []patch{good}, append(reasons, exception{"delete", "no"})},
		`does not name the test a Te`:    {rows, of("write", "a", "TestA"), reasons[:1]},
		`several rows begin with`:        {append(rows, row{promise: "read more"}), []patch{good}, reasons},
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
	const passed = "=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\n"
	f := failure{"read", "a", "TestA", "got 200"}
	for name, test := range map[string]struct{ output, baseline, patched string }{
		"passes":      {passed, "", "a TestA passes without the protection"},
		"fails":       {"    a_test.go:7: got 200, want 403\n--- FAIL: TestA (0.00s)\nFAIL\n", "a TestA does not pass", ""},
		"another way": {"    a_test.go:7: got 503, want 403\n--- FAIL: TestA (0.00s)\nFAIL\n", "a TestA does not pass", `does not print "got 200"`},
		"another":     {"    a_test.go:7: got 200\n--- FAIL: TestAB (0.00s)\nFAIL\n", "a TestA does not pass", "a TestA did not run"},
		"no build":    {"# a\na.go:1: got 200\nFAIL\ta [build failed]\nexit status 1\n", "a TestA does not pass", "a TestA did not run"},
		"panic":       {"    a_test.go:7: got 200\n--- FAIL: TestA (0.00s)\npanic: nil [recovered]\nFAIL\ta\n", "a TestA does not pass", "a TestA panics"},
		"timeout":     {"=== RUN   TestA\ngot 200\npanic: test timed out after 10m0s\nFAIL\ta\n", "a TestA does not pass", "a TestA panics or takes too long"},
		"skipped":     {"--- SKIP: TestA (0.00s)\nPASS\n", "a TestA does not pass", "a TestA did not run"},
		"says both":   {"got 200\n" + passed, `prints "got 200" although it passes`, "a TestA passes"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, f.checkBaseline(test.output), test.baseline)
			wantError(t, f.check(test.output), test.patched)
		})
	}
}
