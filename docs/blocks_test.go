// Package docs_test does what the documentation says: every YAML block goes to a real API server,
// or to the reader of what it is a part of; every command is run, those of clouds by stand-ins that
// know their options.
//
// A comment in the line before a block says that it ends with another exit code than 0, or that its
// commands are not run but parsed only, and which test does what they do:
//
//	<!-- ends with 1: no node runs the Pod -->
//	<!-- not run: in a Pod; TestFromTheBroker is -->
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = ".."

// block is a fenced code block.
type block struct {
	page string
	line int
	lang string
	text string
	// notRun is why its commands are not run; empty if they are.
	notRun string
	// code is the exit code that they end with.
	code int
}

var (
	fence  = regexp.MustCompile("^( *)```([a-z]*)$")
	marker = regexp.MustCompile(`^ *<!-- (?:not run: (.+)|ends with (\d): .+) -->$`)
	span   = regexp.MustCompile("`([^`]+)`")
)

// pages are README.md, and all others that users and contributors read, by path in the repository;
// README.md is first.
func pages(t *testing.T) []string {
	t.Helper()
	all := []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "charts/keyferry/README.md"}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			all = append(all, filepath.Join("docs", path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// read splits a page into its blocks and the text around them, in which code spans are.
func read(t *testing.T, page string) (blocks, spans []block) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	var prose strings.Builder
	var open *block
	indent, before := "", ""
	for i, line := range strings.Split(string(content), "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && open == nil:
			indent, open = m[1], &block{page: page, line: i + 1, lang: m[2]}
			if m := marker.FindStringSubmatch(before); m != nil {
				open.notRun = m[1]
				open.code, _ = strconv.Atoi(m[2]) // 0 if it is not there
			}
		case m != nil:
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		default:
			prose.WriteString(line + "\n")
		}
		before = line
	}
	if open != nil {
		t.Fatalf("%s:%d: the block has no end", page, open.line)
	}
	for _, m := range span.FindAllStringSubmatchIndex(prose.String(), -1) {
		spans = append(spans, block{page: page, text: strings.Join(strings.Fields(prose.String()[m[2]:m[3]]), " ")})
	}
	return blocks, spans
}

// TestBlocks: each block says what is in it, and there are no others than fenced ones.
func TestBlocks(t *testing.T) {
	t.Parallel()
	known := []string{"sh", "yaml", "json", "go", "mermaid", "text"}
	for _, page := range pages(t) {
		blocks, _ := read(t, page)
		for _, b := range blocks {
			if !slices.Contains(known, b.lang) {
				t.Errorf("%s:%d: a block of %q, want one of %q", page, b.line, b.lang, known)
			}
		}
		content, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		if b := regexp.MustCompile("(?m)^\n {4}(kubectl|keyferry|helm|make|go|tools/run) ").Find(content); b != nil {
			t.Errorf("%s: a command is in an indented block, where no test finds it: %q", page, b)
		}
	}
}

// TestNotRun: of each block that is not run it is said which test does the same.
func TestNotRun(t *testing.T) {
	t.Parallel()
	test := regexp.MustCompile(`^.+; (Test[A-Za-z]+) (?:does|is)$`)
	for _, page := range pages(t) {
		blocks, _ := read(t, page)
		for _, b := range blocks {
			if b.notRun == "" {
				continue
			}
			m := test.FindStringSubmatch(b.notRun)
			if m == nil {
				t.Errorf("%s: %q names no test", place(b), b.notRun)
			} else if err := hasTest([]string{".", filepath.Join(root, "e2e"), filepath.Join(root, "cli", "*")}, m[1]); err != nil {
				t.Errorf("%s: %v", place(b), err)
			}
		}
	}
}

// TestLinks: what links lead to is there, headings included.
func TestLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range pages(t) {
		content, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(content), -1) {
			target, heading, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file := filepath.Join(root, filepath.Dir(page), target)
			if target == "" {
				file = filepath.Join(root, page)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: the link %s leads nowhere", page, m[1])
				continue
			}
			if heading != "" && !slices.Contains(headings(t, file), heading) {
				t.Errorf("%s: there is no heading %s in %s", page, heading, target)
			}
		}
	}
}

// headings are the anchors that GitHub makes of a page's headings.
func headings(t *testing.T, file string) []string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var anchors []string
	for line := range strings.Lines(string(content)) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		text := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		text = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(text, "$1")
		text = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(text, "")
		anchors = append(anchors, strings.ReplaceAll(text, " ", "-"))
	}
	return anchors
}
