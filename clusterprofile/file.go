package clusterprofile

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
)

// watchInterval is the longest delay until a change of the file is noticed. The kubelet needs about
// a minute to update the file.
const watchInterval = 10 * time.Second

// File is a provider file that is re-read when it changes.
type File struct {
	path    string
	content []byte // of current
	current atomic.Pointer[ProviderFile]
}

// Open reads the provider file at path, which must be valid. An empty path means a file without
// providers.
func Open(path string) (*File, error) {
	f := &File{path: path}
	if path == "" {
		return f, nil
	}
	if _, err := f.reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Current returns the last valid content of the file. The pointer changes only if the content does.
func (f *File) Current() *ProviderFile { return f.current.Load() }

// Follow returns a function that re-reads the file until its context is done. It logs each change
// once. If the file is invalid, it logs the error, and Current stays unchanged.
func (f *File) Follow(log logr.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		if f.path == "" {
			<-ctx.Done()
			return nil
		}
		ticker := time.NewTicker(watchInterval)
		defer ticker.Stop()
		for said := ""; ; {
			changed, err := f.reload()
			switch {
			case err != nil && err.Error() != said:
				said = err.Error()
				log.Error(err, "keeping the last good provider file")
			case err == nil && (changed || said != ""):
				said = ""
				log.Info("read the provider file", "providers", f.Current().Names())
			}
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
	}
}

// reload re-reads the file. It must not be called concurrently.
func (f *File) reload() (changed bool, err error) {
	content, err := os.ReadFile(f.path)
	if err != nil {
		return false, fmt.Errorf("reading the provider file: %w", err)
	}
	if f.Current() != nil && bytes.Equal(content, f.content) {
		return false, nil
	}
	parsed, err := ParseProviderFile(content)
	if err != nil {
		return false, fmt.Errorf("reading the provider file %s: %w", f.path, err)
	}
	f.content = content
	f.current.Store(parsed)
	return true, nil
}
