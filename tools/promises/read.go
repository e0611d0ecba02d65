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

// exception says why a row, or a test of a row, has no patch.
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

// check returns an error for each row and each named test without a patch or an exception, and for
// each patch and exception without a row.
func (c contents) check() error {
	var errs []error
	covered := map[string]bool{} // rows and tests with a patch
	var excepted []string
	find := func(by, promise string) row {
		i := slices.IndexFunc(c.rows, func(r row) bool { return strings.HasPrefix(r.promise, promise) })
		if i < 0 {
			errs = append(errs, fmt.Errorf("%s: docs/security.md has no row that begins with %q", by, promise))
			return row{}
		}
		if slices.ContainsFunc(c.rows[i+1:], func(r row) bool { return strings.HasPrefix(r.promise, promise) }) {
			errs = append(errs, fmt.Errorf("%s: several rows begin with %q: write more of the row", by, promise))
		}
		return c.rows[i]
	}
	for _, p := range c.patches {
		for _, f := range p.failures {
			r := find("patch "+p.name, f.promise)
			if r.promise != "" && !slices.Contains(r.tests, f.name()) {
				errs = append(errs, fmt.Errorf("patch %s: the row %q does not name the test %s", p.name, f.promise, f.name()))
			}
			covered[r.promise], covered[f.name()] = true, true
		}
	}
	for _, e := range c.exceptions {
		of := []string{e.of} // a test, or the tests of a row and the row
		if !slices.ContainsFunc(c.rows, func(r row) bool { return slices.Contains(r.tests, e.of) }) {
			r := find("exceptions.txt", e.of)
			of = append(slices.Clone(r.tests), r.promise)
		}
		if covered[of[len(of)-1]] {
			errs = append(errs, fmt.Errorf("exceptions.txt: %s has a patch: remove the exception", e.of))
		}
		excepted = append(excepted, of...)
	}
	for _, r := range c.rows {
		for _, of := range append([]string{r.promise}, r.tests...) {
			if !covered[of] && !slices.Contains(excepted, of) {
				covered[of] = true // is reported once
				errs = append(errs, fmt.Errorf("%q has no patch: add one to tools/promises/patches, or the reason to tools/promises/exceptions.txt", of))
			}
		}
	}
	return errors.Join(errs...)
}

func (f failure) name() string { return f.directory + " " + f.test }

// end returns the last lines of an output.
func end(output string) string { return output[max(0, len(output)-4000):] }

// checkBaseline returns an error unless the output shows that the test passes without a patch.
func (f failure) checkBaseline(output string) error {
	switch {
	case !strings.Contains(output, "--- PASS: "+f.test+" "):
		return fmt.Errorf("%s does not pass: %s", f.name(), end(output))
	case strings.Contains(output, f.text):
		return fmt.Errorf("%s prints %q although it passes: choose another text", f.name(), f.text)
	}
	return nil
}

// check returns an error unless the output shows that the test fails as the patch says.
func (f failure) check(output string) error {
	switch {
	case strings.Contains(output, "--- PASS: "+f.test+" "):
		return fmt.Errorf("%s passes without the protection: it does not show the promise", f.name())
	case strings.HasPrefix(output, "panic: "), strings.Contains(output, "\npanic: "):
		return fmt.Errorf("%s panics or takes too long: %s", f.name(), end(output))
	case !strings.Contains(output, "--- FAIL: "+f.test+" "):
		return fmt.Errorf("%s did not run: %s", f.name(), end(output))
	case !strings.Contains(output, f.text):
		return fmt.Errorf("%s fails for another reason: it does not print %q: %s", f.name(), f.text, end(output))
	}
	return nil
}
