package main

import (
	"strings"
	"testing"
)

// TestRepository: each row of the threat model has a patch or a reason, and each patch a row.
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

func TestCheck(t *testing.T) {
	rows := parseRows(page)
	if len(rows) != 2 || strings.Join(rows[0].tests, ",") != "a TestA,a TestB,b TestC" {
		t.Fatalf("rows %q", rows)
	}
	good := patch{name: "p", promise: "read", directory: "b", test: "TestC"}
	reason := []exception{{"write", "no"}}
	for want, c := range map[string]contents{
		"":                            {rows, []patch{good}, reason},
		`row "write one" has no`:      {rows, []patch{good}, nil},
		`no row that begins`:          {rows, []patch{good}, append(reason, exception{"delete", "no"})},
		`does not name the test a Te`: {rows, []patch{good, {name: "q", promise: "write", directory: "a", test: "TestA"}}, nil},
		`several rows begin with`:     {append(rows, row{promise: "read more"}), []patch{good}, reason},
	} {
		err := c.check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestParsePatch(t *testing.T) {
	p, err := parsePatch("Promise: read a Secret\nTest: a TestA\n\ndiff --git a/x b/x\n")
	if err != nil || p.promise != "read a Secret" || p.directory != "a" || p.test != "TestA" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, text := range []string{"", "Promise: read\n\ndiff --git a/x b/x\n"} {
		if _, err := parsePatch(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
