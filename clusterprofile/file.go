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

// watchInterval is how late a change of the file is noticed; the kubelet, which writes it, takes
// about a minute.
const watchInterval = 10 * time.Second

// File is a provider file that may change.
type File struct {
	path    string
	content []byte // of current
	current atomic.Pointer[ProviderFile]
}

// Open reads the file of that path, which has to be a valid one. No path is a file without
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

// Current returns what the file says, or said when it was valid last. It is the same pointer for as
// long as the file is the same.
func (f *File) Current() *ProviderFile { return f.current.Load() }

// Follow returns what reads the file again and again, until its context ends. It logs each change
// once: what the file says now or, if it is not a valid one, what is wrong with it; then what it
// said before goes on to count.
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

// reload is for one caller at a time.
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
