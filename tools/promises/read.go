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

// patch removes what a row promises.
type patch struct {
	name, file      string
	promise         string // begins the text of the row
	directory, test string
}

// exception says why a row has no patch.
type exception struct{ promise, reason string }

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

// parsePatch reads the lines before the first file of a patch.
func parsePatch(text string) (patch, error) {
	head, _, found := strings.Cut(text, "\ndiff --git ")
	if !found {
		return patch{}, errors.New("it changes no file")
	}
	var p patch
	for line := range strings.SplitSeq(head, "\n") {
		if promise, ok := strings.CutPrefix(line, "Promise: "); ok {
			p.promise = promise
		}
		if test, ok := strings.CutPrefix(line, "Test: "); ok {
			p.directory, p.test, _ = strings.Cut(test, " ")
		}
	}
	if p.promise == "" || p.test == "" {
		return patch{}, errors.New(`it needs the lines "Promise: BEGINNING OF THE ROW" and "Test: DIRECTORY TestName"`)
	}
	return p, nil
}

// parseExceptions reads lines "PROMISE | REASON"; a line that begins with # is a comment.
func parseExceptions(text string) (all []exception, err error) {
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		promise, reason, ok := strings.Cut(line, " | ")
		if !ok {
			return nil, fmt.Errorf("exceptions.txt: %q: write PROMISE | REASON", line)
		}
		all = append(all, exception{promise, reason})
	}
	return all, nil
}

// check returns an error for each row without a patch or an exception, and for each patch and
// exception without a row.
func (c contents) check() error {
	var errs []error
	covered := map[string]string{}
	cover := func(by, promise, test string) {
		i := slices.IndexFunc(c.rows, func(r row) bool { return strings.HasPrefix(r.promise, promise) })
		switch {
		case i < 0:
			errs = append(errs, fmt.Errorf("%s: docs/security.md has no row that begins with %q", by, promise))
			return
		case test != "" && !slices.Contains(c.rows[i].tests, test):
			errs = append(errs, fmt.Errorf("%s: the row %q does not name the test %s", by, promise, test))
		case slices.ContainsFunc(c.rows[i+1:], func(r row) bool { return strings.HasPrefix(r.promise, promise) }):
			errs = append(errs, fmt.Errorf("%s: several rows begin with %q: write more of the row", by, promise))
		}
		covered[c.rows[i].promise] = by
	}
	for _, p := range c.patches {
		cover("patch "+p.name, p.promise, p.directory+" "+p.test)
	}
	for _, e := range c.exceptions {
		cover("exceptions.txt", e.promise, "")
	}
	for _, r := range c.rows {
		if covered[r.promise] == "" {
			errs = append(errs, fmt.Errorf("the row %q has no patch: add one to tools/promises/patches, or the reason to tools/promises/exceptions.txt", r.promise))
		}
	}
	return errors.Join(errs...)
}
