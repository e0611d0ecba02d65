// Package moduleroot finds the files of this module that are no Go packages; it is for tests.
package moduleroot

import (
	"os"
	"path/filepath"
)

// Dir is the module's root directory. Tests run in directories of the module; a program that is
// compiled with -trimpath does not know where its source is.
func Dir() string {
	dir, err := os.Getwd()
	for err == nil && dir != filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}
