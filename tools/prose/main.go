// Prose prints sentences of the README and the docs, drawn at random, for a reader to rate.
//
//	prose [-n 120] [-seed HEAD] ROOT
//
// The seed is a commit: everyone who draws at that commit gets the same sentences. Generated text
// is left out.
package main

import (
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	n := flag.Int("n", 120, "number of sentences")
	seed := flag.String("seed", "HEAD", "commit that the sample follows from")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: prose [-n 120] [-seed HEAD] ROOT")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *seed, *n); err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(1)
	}
}

func run(root, seed string, n int) error {
	commit, err := exec.Command("git", "-C", root, "rev-parse", "--verify", seed).Output()
	if err != nil {
		return fmt.Errorf("reading the commit of %s: %w", seed, err)
	}
	hash := strings.TrimSpace(string(commit))
	pages, err := pagesOf(root)
	if err != nil {
		return err
	}
	var all []sentence
	for _, page := range pages {
		content, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			return err
		}
		all = append(all, sentences(page, string(content))...)
	}
	fmt.Printf("commit %s: %d of %d sentences in %d pages\n", hash, min(n, len(all)), len(all), len(pages))
	for i, s := range draw(all, hash, n) {
		fmt.Printf("%3d  %s:%d: %s\n", i+1, s.page, s.line, s.text)
	}
	return nil
}

// pagesOf returns README.md and the pages in docs, relative to the root.
func pagesOf(root string) ([]string, error) {
	pages := []string{"README.md"}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".md" {
			return err
		}
		page, err := filepath.Rel(root, path)
		pages = append(pages, page)
		return err
	})
	return pages, err
}

// draw returns n of the sentences, or all of them if there are fewer. The same seed gives the same
// sentences.
func draw(all []sentence, seed string, n int) []sentence {
	h := fnv.New64a()
	_, _ = h.Write([]byte(seed)) // never fails
	random := rand.New(rand.NewPCG(h.Sum64(), 0))
	var drawn []sentence
	for _, i := range random.Perm(len(all))[:min(n, len(all))] {
		drawn = append(drawn, all[i])
	}
	return drawn
}
