// Prose checks the words of the README and the docs, and draws sentences of them at random for a
// reader to rate.
//
//	prose check ROOT
//	prose draw [-n 120] [-seed HEAD] [-printed] ROOT
//
// The docs contain the texts that programs print: help, flags, metrics, fields of the API and
// values of the chart. Check reads them too. Draw draws from the pages without these texts, or with
// -printed only from these texts and from the messages in the Go sources. It takes a commit as
// seed: everyone who draws at that commit gets the same sentences. Code is left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: prose check ROOT, or prose draw [-n 120] [-seed HEAD] [-printed] ROOT")

func run(out io.Writer, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	n := flags.Int("n", 120, "number of sentences to draw")
	seed := flags.String("seed", "HEAD", "commit that the sample follows from")
	printed := flags.Bool("printed", false, "draw from the texts that programs print")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	root := flags.Arg(0)
	switch {
	case flags.NArg() != 1:
		return errUsage
	case args[0] == "check":
		return checkPages(out, root)
	case args[0] == "draw":
		return drawSentences(out, root, *seed, *n, *printed)
	default:
		return errUsage
	}
}

func checkPages(out io.Writer, root string) error {
	all, err := readPages(root)
	if err != nil {
		return err
	}
	wrong := 0
	for _, s := range all {
		for _, finding := range check(s) {
			fmt.Fprintf(out, "%s:%d: %s\n", s.page, s.line, finding.message)
			if !finding.warning {
				wrong++
			}
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d findings: rewrite these sentences", wrong)
	}
	return nil
}

func drawSentences(out io.Writer, root, seed string, n int, printed bool) error {
	commit, err := exec.CommandContext(context.Background(), "git", "-C", root, "rev-parse", "--verify", seed).Output() //nolint:gosec // both are the caller's
	if err != nil {
		return fmt.Errorf("reading the commit of %s: %w", seed, err)
	}
	hash := strings.TrimSpace(string(commit))
	all, err := readPages(root)
	if err != nil {
		return err
	}
	if printed {
		messages, err := readMessages(root)
		if err != nil {
			return err
		}
		all = append(all, messages...)
	}
	var long []sentence
	for _, s := range all {
		if !s.heading && s.printed == printed && isText(s.text) {
			long = append(long, s)
		}
	}
	fmt.Fprintf(out, "commit %s: %d of %d sentences\n", hash, min(n, len(long)), len(long))
	for i, s := range draw(long, hash, n) {
		fmt.Fprintf(out, "%3d  %s:%d: %s\n", i+1, s.page, s.line, s.text)
	}
	return nil
}

// figure matches a word that is a number, with a unit or a sign.
var figure = regexp.MustCompile(`^[-+]?\d[0-9.,]*[a-zA-Z%]*$`)

// isText reports whether a text is long enough to rate. The row of a table of figures, a list of
// names in code, a command and the line of an example are no texts.
func isText(text string) bool {
	if len(strings.Fields(code.ReplaceAllString(text, ""))) < minWords/2 {
		return false
	}
	words := strings.Fields(text)
	figures := 0
	for _, word := range words {
		if figure.MatchString(word) {
			figures++
		}
	}
	return len(words) >= minWords && figures*3 < len(words) && !example.MatchString(text)
}

// example matches the beginning of a command, of YAML or of JSON.
var example = regexp.MustCompile(`^(\$ |keyferry |kubectl |helm |kustomize |curl |echo |source |- \w+: |[{\[])`)

// readPages returns the sentences of README.md, CONTRIBUTING.md, SECURITY.md and the pages in docs.
func readPages(root string) ([]sentence, error) {
	paths := []string{"README.md", "CONTRIBUTING.md", "SECURITY.md"}
	err := fs.WalkDir(os.DirFS(root), "docs", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var all []sentence
	for _, path := range paths {
		content, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return nil, err
		}
		all = append(all, sentences(path, string(content))...)
	}
	return all, nil
}

// draw returns n of the sentences, or all of them if there are fewer. The same seed gives the same
// sentences.
func draw(all []sentence, seed string, n int) []sentence {
	h := fnv.New64a()
	_, _ = h.Write([]byte(seed))                  // never fails
	random := rand.New(rand.NewPCG(h.Sum64(), 0)) //nolint:gosec // the same seed has to give the same sample
	var drawn []sentence
	for _, i := range random.Perm(len(all))[:min(n, len(all))] {
		drawn = append(drawn, all[i])
	}
	return drawn
}
