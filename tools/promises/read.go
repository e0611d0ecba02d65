package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// row is a promise of the threat model.
type row struct {
	promise string
	tests   []string // "directory TestName"
}

// patch removes what one or more rows promise.
type patch struct {
	name, file string
	failures   []failure
}

// failure is a test of a row that fails with a patch, and a text that the test then prints. promise
// is the beginning of the row.
type failure struct{ promise, directory, test, text string }

// exception is the reason why a row, or a test in all rows, has no patch.
type exception struct{ of, reason string }

type contents struct {
	rows       []row
	patches    []patch
	exceptions []exception
}

// read reads the threat model, the patches and the exceptions of a repository.
func read(root string) (c contents, err error) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "security.md"))
	if err != nil {
		return c, err
	}
	c.rows = parseRows(string(page))
	folder := filepath.Join(root, "tools", "promises")
	files, err := filepath.Glob(filepath.Join(folder, "patches", "*.patch"))
	if err != nil {
		return c, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return c, err
		}
		p, err := parsePatch(string(text))
		if err != nil {
			return c, fmt.Errorf("%s: %w", file, err)
		}
		p.name, p.file = strings.TrimSuffix(filepath.Base(file), ".patch"), file
		c.patches = append(c.patches, p)
	}
	text, err := os.ReadFile(filepath.Join(folder, "exceptions.txt"))
	if err != nil {
		return c, err
	}
	c.exceptions, err = parseExceptions(string(text))
	return c, err
}

var (
	shown = regexp.MustCompile(`\]\(\.\./([^)]+)\)((?:,? ` + "`" + `\w+` + "`" + `)+)`)
	named = regexp.MustCompile("`(\\w+)`")
	// subject is the beginning of a row, such as "The broker cannot". A promise is the text after it.
	subject = regexp.MustCompile(`^\| \w+( \w+){0,2} (cannot|does not) `)
)

// parseRows returns the rows of the tables whose second column is "shown by".
func parseRows(page string) (rows []row) {
	inside := false
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		switch {
		case !strings.HasPrefix(line, "|"):
			inside = false
		case len(cells) == 2 && cells[1] == "shown by |":
			inside = true
		case inside && len(cells) == 2:
			r := row{promise: strings.TrimPrefix(subject.ReplaceAllString(cells[0], ""), "| ")}
			for _, match := range shown.FindAllStringSubmatch(cells[1], -1) {
				for _, test := range named.FindAllStringSubmatch(match[2], -1) {
					r.tests = append(r.tests, path.Dir(match[1])+" "+test[1])
				}
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// parsePatch reads the lines before the first file of a patch: a row, its tests, and after each
// test the text that the test prints. Then there may be further rows.
func parsePatch(text string) (patch, error) {
	head, _, found := strings.Cut(text, "\ndiff --git ")
	if !found {
		return patch{}, errors.New("it changes no file")
	}
	var p patch
	var promise string
	for line := range strings.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch last := len(p.failures) - 1; {
		case key == "Promise":
			promise = value
		case key == "Test":
			directory, test, _ := strings.Cut(value, " ")
			p.failures = append(p.failures, failure{promise: promise, directory: directory, test: test})
		case key == "Fails" && last >= 0:
			p.failures[last].text = value
		}
	}
	incomplete := func(f failure) bool { return f.promise == "" || f.test == "" || f.text == "" }
	if len(p.failures) == 0 || slices.ContainsFunc(p.failures, incomplete) {
		return patch{}, errors.New(`it needs the lines "Promise: BEGINNING OF THE ROW", "Test: DIRECTORY TestName" and "Fails: TEXT THAT THE TEST PRINTS"`)
	}
	return p, nil
}

// parseExceptions reads lines "ROW | REASON", which are also about all tests of the row, and
// "DIRECTORY TestName | REASON". A line that begins with # is a comment.
func parseExceptions(text string) (all []exception, err error) {
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		of, reason, ok := strings.Cut(line, " | ")
		if !ok {
			return nil, fmt.Errorf("exceptions.txt: %q: write ROW | REASON, or DIRECTORY TestName | REASON", line)
		}
		all = append(all, exception{of, reason})
	}
	return all, nil
}

// shownBy is a row and one of its tests.
type shownBy struct{ promise, test string }

// check returns an error for each test of each row without a patch or an exception, and for each
// patch and exception without a row.
func (c contents) check() error {
	var errs []error
	patched, excepted := map[shownBy]bool{}, map[shownBy]bool{}
	for _, p := range c.patches {
		for _, f := range p.failures {
			r, err := c.find(f.promise)
			if err == nil && !slices.Contains(r.tests, f.name()) {
				err = fmt.Errorf("the row %q does not name the test %s", f.promise, f.name())
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("patch %s: %w", p.name, err))
			}
			patched[shownBy{r.promise, f.name()}] = true
		}
	}
	for _, e := range c.exceptions {
		without, err := c.without(e)
		if err == nil && slices.ContainsFunc(without, func(s shownBy) bool { return patched[s] }) {
			err = fmt.Errorf("%s has a patch: remove the exception", e.of)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("exceptions.txt: %w", err))
		}
		for _, s := range without {
			excepted[s] = true
		}
	}
	for _, r := range c.rows {
		if len(r.tests) == 0 {
			errs = append(errs, fmt.Errorf("the row %q names no test", r.promise))
		}
		for _, test := range r.tests {
			if s := (shownBy{r.promise, test}); !patched[s] && !excepted[s] {
				errs = append(errs, fmt.Errorf("the row %q has no patch for %s: add one to tools/promises/patches, or the reason to tools/promises/exceptions.txt", r.promise, test))
			}
		}
	}
	return errors.Join(errs...)
}

// find returns the row that begins with a text.
func (c contents) find(promise string) (row, error) {
	begins := func(r row) bool { return strings.HasPrefix(r.promise, promise) }
	i := slices.IndexFunc(c.rows, begins)
	if i < 0 {
		return row{}, fmt.Errorf("docs/security.md has no row that begins with %q", promise)
	}
	if slices.ContainsFunc(c.rows[i+1:], begins) {
		return row{}, fmt.Errorf("several rows begin with %q: write more of the row", promise)
	}
	return c.rows[i], nil
}

// without returns what has no patch by an exception: a test in all rows, or all tests of a row.
func (c contents) without(e exception) (all []shownBy, err error) {
	for _, r := range c.rows {
		if slices.Contains(r.tests, e.of) {
			all = append(all, shownBy{r.promise, e.of})
		}
	}
	if len(all) > 0 {
		return all, nil
	}
	r, err := c.find(e.of)
	for _, test := range r.tests {
		all = append(all, shownBy{r.promise, test})
	}
	return all, err
}

func (f failure) name() string { return f.directory + " " + f.test }
