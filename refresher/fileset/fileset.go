// Package fileset writes a set of files to a directory atomically: readers see all files of a set
// change at once.
//
// The layout is that of the kubelet for Secrets: each file is a symlink through the symlink ..data
// into a directory with one set, which never changes. One rename of ..data replaces the set.
//
// The previous set stays until the next Write: a reader that followed ..data just before the rename
// still finds its file. Nothing is synced to disk, because the volume is in memory.
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

// Write writes files (contents by name) as the new set in dir. It creates dir if it is missing.
// There must be only one writer. All users can read the directory and the files. If Write returns
// an error, the previous set is unchanged. Write removes leftovers of a killed process.
func Write(dir string, files map[string][]byte) (err error) {
	if err := MakeDir(dir); err != nil {
		return fmt.Errorf("creating the directory of the files: %w", err)
	}
	// First remove leftovers, because the volume may be full.
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
	// Link the names before the swap, so that all files of a first set appear at once.
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

// Read returns one set, contents by name. If there is none, the error wraps fs.ErrNotExist.
func Read(dir string) (map[string][]byte, error) {
	// An open directory stays the same when ..data changes.
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

// Written returns the time at which the current set was written; zero if there is none.
func Written(dir string) time.Time {
	info, err := os.Stat(filepath.Join(dir, dataLink))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// MakeDir creates dir and its missing parents, readable for all users. It does not change existing
// directories.
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

// removeStale removes all sets from dir but the current one.
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

// fill writes files to a set. It sets the modes explicitly, because a umask applies when files are
// created.
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

// link makes name in dir a symlink to the file of the current set.
func link(dir, name string) error {
	path, target := filepath.Join(dir, name), filepath.Join(dataLink, name)
	if present, err := os.Readlink(path); err == nil && present == target {
		return nil
	}
	return os.Symlink(target, path)
}

// swap makes the directory named set the current set.
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

// WriteFile replaces the file at path atomically, even if the process is killed. Only the owner can
// read the file.
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
