package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// The lines of Chart.yaml that contain the version. appVersion is also the tag of the images.
var (
	chartVersion = regexp.MustCompile(`(?m)^version: .*$`)
	appVersion   = regexp.MustCompile(`(?m)^appVersion: .*$`)
	imageTag     = regexp.MustCompile(`(?m)^( *image: ghcr\.io/keyferry/[a-z]+):.*$`)
)

// chart writes the chart as an archive, as `helm package` does, but for the times in it.
func (r release) chart() error {
	chart := os.DirFS(filepath.Join(r.root, "charts", "keyferry"))
	version := strings.TrimPrefix(r.version, "v")
	var files []file
	err := fs.WalkDir(chart, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// .helmignore leaves out what is for tests only.
		if entry.IsDir() && name == "ci" {
			return filepath.SkipDir
		}
		if entry.IsDir() || name == ".helmignore" {
			return nil
		}
		content, err := fs.ReadFile(chart, name)
		if err != nil {
			return err
		}
		if name == "Chart.yaml" {
			content = chartVersion.ReplaceAll(content, []byte("version: "+version))
			content = appVersion.ReplaceAll(content, []byte("appVersion: "+r.version))
			content = imageTag.ReplaceAll(content, []byte("${1}:"+r.version))
		}
		files = append(files, file{path.Join("keyferry", name), 0o644, content})
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the chart: %w", err)
	}
	content, err := tarballOf(files)
	if err != nil {
		return err
	}
	return r.write("keyferry-"+version+".tgz", content)
}
