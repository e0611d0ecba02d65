// Package install copies programs from images that have no shell.
package install

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Copy copies the program from to the path to and makes it executable for all users. The copy
// appears atomically.
func Copy(from, to string) (err error) {
	program, err := os.Open(from) //nolint:gosec // the path is the operator's
	if err != nil {
		return fmt.Errorf("opening the program (check its path in the image): %w", err)
	}
	defer program.Close()
	if info, err := program.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%s is not a file", from), err)
	}
	part, err := os.CreateTemp(filepath.Dir(to), ".part-*")
	if err != nil {
		return fmt.Errorf("creating the copy: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part.Name()))
		}
	}()
	_, err = io.Copy(part, program)
	err = errors.Join(err, part.Chmod(0o755), part.Close())
	if err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	if err := os.Rename(part.Name(), to); err != nil {
		return fmt.Errorf("putting the copy in place: %w", err)
	}
	return nil
}
