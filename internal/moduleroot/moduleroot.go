// Package moduleroot finds files of this module that are not Go packages. It is for tests.
package moduleroot

import (
	"os"
	"path/filepath"
)

// Dir returns the module's root directory. It depends on the working directory, which is in the
// module for tests: a program compiled with -trimpath does not know its source directory.
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
