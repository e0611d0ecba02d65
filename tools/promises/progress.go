package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// progress is the names of the patches that a stopped run has tried with success, in a file for the
// commit. Without a file, it remembers nothing.
type progress struct {
	file  string
	names []string
}

// openProgress reads the progress of the last run at the repository's commit. If the repository has
// changes that are not committed, there is no file.
func openProgress(root string) (*progress, error) {
	changes, err := output(root, "git", "status", "--porcelain")
	if err != nil || changes != "" {
		return &progress{}, err
	}
	commit, err := output(root, "git", "rev-parse", "HEAD")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(root, "dist", "promises", strings.TrimSpace(commit))
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &progress{file, strings.Fields(string(text))}, os.MkdirAll(filepath.Dir(file), 0o755)
}

func (p *progress) contains(name string) bool { return slices.Contains(p.names, name) }

func (p *progress) add(name string) error {
	if p.file == "" {
		return nil
	}
	file, err := os.OpenFile(p.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, name)
	return errors.Join(err, file.Close())
}

// remove forgets the progress at the end of a run, so that the next run tries all patches.
func (p *progress) remove() error {
	if p.file == "" {
		return nil
	}
	if err := os.Remove(p.file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
