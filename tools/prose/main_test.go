package main

import (
	"slices"
	"testing"
)

func TestSentences(t *testing.T) {
	t.Parallel()
	const page = `# A heading of more words than eight, which is no sentence

The broker checks the token, and [issues](a.md) a credential. It does
so for each Pod that asks the broker, e.g. One of a Job or of a CronJob.

- The first item of the list has no period at the end
- too short

` + "```sh\necho this is a command and not a sentence of the page\n```" + `

| field | what the field of this object means to a user |
|---|---|
| ` + "`a`" + ` | The name of the Secret that holds the key and the certificate. Required. |

<!-- generated: by a program -->
This is written by a program, so nobody has to rate it.
<!-- end -->

After the generated text the page goes on as it did before.
`
	want := []sentence{
		{"p", 3, "The broker checks the token, and issues a credential."},
		{"p", 3, "It does so for each Pod that asks the broker, e.g. One of a Job or of a CronJob."},
		{"p", 6, "The first item of the list has no period at the end"},
		{"p", 13, "what the field of this object means to a user"},
		{"p", 15, "The name of the Secret that holds the key and the certificate."},
		{"p", 21, "After the generated text the page goes on as it did before."},
	}
	if got := sentences("p", page); !slices.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
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
