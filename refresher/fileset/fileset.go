// Package fileset keeps a set of files in a directory that its readers see change all at once, or
// not at all.
//
// It lays them out as the kubelet does for Secrets: each file is a symlink through the one symlink
// ..data into a directory that holds one whole set and never changes; one rename of ..data swaps
// the set.
//
// The set before the present one stays until the next Write, so that a reader who followed ..data
// just before it was swapped still finds its file. Nothing is synced to a disk: a set lives in
// memory, as the credentials in it must.
package fileset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	dataLink    = "..data"
	dataNewLink = "..data_tmp"
	setPrefix   = "..set-"
)

// Write makes files, contents by name, the set in dir, which is created if it is missing and must
// have one writer only. Directory and files are readable for everybody. If it returns an error, the
// set that was there before is still there, unchanged. What a killed predecessor left behind is
// removed.
func Write(dir string, files map[string][]byte) (err error) {
	if err := MakeDir(dir); err != nil {
		return fmt.Errorf("creating the directory of the files: %w", err)
	}
	// First, to make room: a volume that is full of leftovers must not stay full.
	if err := removeStale(dir); err != nil {
		return fmt.Errorf("removing old files in %s: %w", dir, err)
	}
	set, err := os.MkdirTemp(dir, setPrefix+"*")
	if err != nil {
		return fmt.Errorf("creating a directory for new files: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(set))
		}
	}()
	if err := fill(set, files); err != nil {
		return fmt.Errorf("writing new files: %w", err)
	}
	// The names come before the swap: a first set appears with all of them at once.
	for name := range files {
		if err := link(dir, name); err != nil {
			return fmt.Errorf("linking a new file: %w", err)
		}
	}
	if err := swap(dir, filepath.Base(set)); err != nil {
		return fmt.Errorf("swapping in new files: %w", err)
	}
	return nil
}

// Read returns one whole set, contents by name, or an error that wraps fs.ErrNotExist if there is
// none.
func Read(dir string) (map[string][]byte, error) {
	// Opened once, the directory stays the same one while ..data moves on.
	set, err := os.OpenRoot(filepath.Join(dir, dataLink))
	if err != nil {
		return nil, fmt.Errorf("opening the set of files: %w", err)
	}
	defer set.Close() //nolint:errcheck // nothing was written
	entries, err := fs.ReadDir(set.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("listing the set of files: %w", err)
	}
	files := make(map[string][]byte, len(entries))
	for _, entry := range entries {
		if files[entry.Name()], err = set.ReadFile(entry.Name()); err != nil {
			return nil, fmt.Errorf("reading the set of files: %w", err)
		}
	}
	return files, nil
}

// Written returns when the present set was written; zero if there is none.
func Written(dir string) time.Time {
	info, err := os.Stat(filepath.Join(dir, dataLink))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// MakeDir creates dir, and the directories above it that are missing, readable for everybody. What
// is there already stays as it is.
func MakeDir(dir string) error {
	err := os.Mkdir(dir, 0o755) //nolint:gosec // the application may run as any user
	if parent := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := MakeDir(parent); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o755) //nolint:gosec // as above
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // a umask may have narrowed it
}

// removeStale removes everything of ours from dir that is not the present set.
func removeStale(dir string) error {
	present, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		if name == present || name != dataNewLink && !strings.HasPrefix(name, setPrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// fill writes files into set. The modes are set apart from creating, as a umask would narrow them.
func fill(set string, files map[string][]byte) error {
	for name, content := range files {
		path := filepath.Join(set, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil { //nolint:gosec // the application may run as any user
			return err
		}
	}
	return os.Chmod(set, 0o755) //nolint:gosec // the application may run as any user
}

// link makes name in dir lead to that file of whatever set is present.
func link(dir, name string) error {
	path, target := filepath.Join(dir, name), filepath.Join(dataLink, name)
	if present, err := os.Readlink(path); err == nil && present == target {
		return nil
	}
	return os.Symlink(target, path)
}

// swap makes the directory named set the present one.
func swap(dir, set string) error {
	next := filepath.Join(dir, dataNewLink)
	if err := os.Symlink(set, next); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(dir, dataLink)); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return nil
}

// WriteFile replaces the file at path, which only its owner can read: whole or not at all, whenever
// the process is killed.
func WriteFile(path string, content []byte) error {
	next := path + ".new"
	err := os.WriteFile(next, content, 0o600)
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(next))
	}
	return nil
}
