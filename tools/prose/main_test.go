package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSentences(t *testing.T) {
	t.Parallel()
	const page = `# A heading

The broker checks the token, and [issues](a.md) a credential. It does
so for each Pod that asks the broker, e.g. One of a Job or of a CronJob.

- The first item of the list has no period at the end
- too short

` + "```sh\necho this is a command\n```" + `

| field | meaning |
|---|---|
| ` + "`a`" + ` | The name of the Secret. Required. |
| time for a Pod | 75.7 µs | 152 µs |

<!-- generated: by a program -->
This is written by a program.

` + "```text\nThe text of a command. It is\nwrapped.\n\nUsage:\n      --port int   port of the webhook (default 9443)\n```" + `
<!-- end -->

After the generated text.
`
	want := []sentence{
		{"p", 1, "A heading", true, false},
		{"p", 3, "The broker checks the token, and issues a credential.", false, false},
		{"p", 3, "It does so for each Pod that asks the broker, e.g. One of a Job or of a CronJob.", false, false},
		{"p", 6, "The first item of the list has no period at the end", false, false},
		{"p", 7, "too short", false, false},
		{"p", 13, "field", false, false},
		{"p", 13, "meaning", false, false},
		{"p", 15, "`a`", false, false},
		{"p", 15, "The name of the Secret.", false, false},
		{"p", 15, "Required.", false, false},
		{"p", 16, "time for a Pod", true, false},
		{"p", 16, "75.7 µs", false, false},
		{"p", 16, "152 µs", false, false},
		{"p", 19, "This is written by a program.", false, true},
		{"p", 22, "The text of a command.", false, true},
		{"p", 22, "It is wrapped.", false, true},
		{"p", 25, "Usage:", false, true},
		{"p", 26, "port of the webhook (default 9443)", false, true},
		{"p", 30, "After the generated text.", false, false},
	}
	if got := sentences("p", page); !slices.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text    string
		heading bool
		want    string // part of the only finding, or empty
	}{
		{text: "Fix the kubeconfig."},
		{text: "Mend the kubeconfig.", want: `"Mend": write instead: fix`},
		{text: "The field `mend` is not prose."},
		{text: "The lifetime of a token is an hour."},
		{text: "The life of a token is an hour.", want: `"life"`},
		{text: "Who may use it is RBAC.", want: `"Who"`},
		{text: "Who may use it?"},
		{text: "Who may use it", heading: true},
		{text: "Whoever asks", heading: true, want: `"Whoever"`},
		{text: "Where the target is down, Pods wait.", want: `"Where the": write instead: begin a condition with if`},
		{text: strings.Repeat("word ", maxWords)},
		{text: strings.Repeat("word ", maxWords+1), want: "warning: 36 words"},
	} {
		findings := check(sentence{text: c.text, heading: c.heading})
		switch {
		case c.want == "" && len(findings) > 0:
			t.Errorf("%q: got %v, want no finding", c.text, findings)
		case c.want != "" && (len(findings) != 1 || !strings.Contains(findings[0].message, c.want)):
			t.Errorf("%q: got %v, want %s", c.text, findings, c.want)
		}
	}
}

// TestDraw: the seed decides what is drawn, and nothing is drawn twice.
func TestDraw(t *testing.T) {
	t.Parallel()
	var all []sentence
	for i := range 50 {
		all = append(all, sentence{line: i})
	}
	first := draw(all, "a", 20)
	if !slices.Equal(first, draw(all, "a", 20)) {
		t.Error("the same seed gives other sentences")
	}
	if slices.Equal(first, draw(all, "b", 20)) {
		t.Error("another seed gives the same sentences")
	}
	lines := map[int]bool{}
	for _, s := range draw(all, "a", 60) {
		lines[s.line] = true
	}
	if len(lines) != len(all) {
		t.Errorf("got %d different sentences of %d, want all", len(lines), len(all))
	}
}

func TestIsText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"The broker checks the token, and issues a credential.": true,
		"too short": false,
		"`TestSuspended`, `TestPluginRunsAfterASuspension`, `TestMemo`, `TestUnchanged` and `TestA`, `TestB`": false,
		"2m7s kill broker, delay broker 1211 0 0 0 6 56 0":                                                    false,
		"keyferry target add fleet/tenant-1 --context tenant-1 --role view --timeout":                         false,
	} {
		if got := isText(text); got != want {
			t.Errorf("%q: got %t, want %t", text, got, want)
		}
	}
}

// TestMessages: string literals of errors and log lines are messages, other literals are not.
func TestMessages(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.go")
	const source = "package a\n\nvar err = fmt.Errorf(\"reading %s: \"+key+\n\t\": %w\", \"name\", err)\nvar key = \"no message\"\n"
	if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := messages("a.go", path)
	if err != nil {
		t.Fatal(err)
	}
	want := []sentence{{"a.go", 3, "reading %s: %s: %w", false, true}, {"a.go", 4, "name", false, true}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
