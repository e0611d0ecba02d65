package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// platform is what programs are built for. Only the command keyferry runs elsewhere than on nodes.
type platform struct{ os, arch string }

// platforms are those of a release.
const platforms = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64"

func parsePlatforms(text string) ([]platform, error) {
	var all []platform
	for one := range strings.SplitSeq(text, ",") {
		system, arch, ok := strings.Cut(one, "/")
		if !ok {
			return nil, fmt.Errorf("-platforms=%s: want them as %s", text, platforms)
		}
		all = append(all, platform{system, arch})
	}
	return all, nil
}

// components are the programs of the images, which are published by themselves, too.
func components() []string { return []string{"webhook", "broker", "controller", "refresher"} }

// program is one that was built.
type program struct {
	platform
	name, path string
}

// file is what goes into an archive.
type file struct {
	name    string
	mode    int64
	content []byte
}

// programs builds all programs, and writes their archives; with the command go the files that
// accompany it.
func (r release) programs(ctx context.Context, accompanying []file) ([]program, error) {
	var built []program
	for _, on := range r.platforms {
		names := []string{"keyferry"}
		if on.os == "linux" {
			names = append(names, components()...)
		}
		dir := filepath.Join(r.work, on.os+"-"+on.arch)
		if err := r.make(ctx, on, dir, names); err != nil {
			return nil, fmt.Errorf("building for %s/%s: %w", on.os, on.arch, err)
		}
		for _, name := range names {
			built = append(built, program{platform: on, name: name, path: filepath.Join(dir, executable(on, name))})
		}
		if err := r.archive("keyferry", on, dir, names[:1], accompanying); err != nil {
			return nil, err
		}
		if len(names) > 1 {
			if err := r.archive("keyferry-components", on, dir, names[1:], nil); err != nil {
				return nil, err
			}
		}
	}
	return built, nil
}

// accompanying has tools/man write manual pages and completions, and adds what completes the plugin
// of kubectl.
func (r release) accompanying(ctx context.Context) ([]file, error) {
	dir := filepath.Join(r.work, "accompanying")
	cmd := exec.CommandContext(ctx, "go", "run", "-trimpath", ".", dir)
	cmd.Dir = filepath.Join(r.root, "tools", "man")
	cmd.Env = append(os.Environ(), fmt.Sprint("SOURCE_DATE_EPOCH=", r.time.Unix()))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("writing manual pages and completions: %w", err)
	}
	script, err := os.ReadFile(filepath.Join(r.root, "cmd", "keyferry", "kubectl_complete-keyferry"))
	if err != nil {
		return nil, err
	}
	files := []file{{"kubectl_complete-keyferry", 0o755, script}}
	written := os.DirFS(dir)
	err = fs.WalkDir(written, ".", func(name string, entry fs.DirEntry, err error) error { // in the order of names
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(written, name)
		files = append(files, file{name, 0o644, content})
		return err
	})
	return files, err
}

func executable(on platform, name string) string {
	if on.os == "windows" {
		return name + ".exe"
	}
	return name
}

// make compiles programs into dir, or copies those that are built already.
func (r release) make(ctx context.Context, on platform, dir string, names []string) error {
	if r.prebuilt != "" {
		return os.CopyFS(dir, os.DirFS(filepath.Join(r.prebuilt, on.os+"-"+on.arch)))
	}
	fmt.Fprintf(os.Stderr, "building programs for %s/%s\n", on.os, on.arch)
	args := []string{r.version, dir}
	for _, name := range names {
		args = append(args, "./cmd/"+name)
	}
	cmd := exec.CommandContext(ctx, r.root+"/tools/build", args...)
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), "GOOS="+on.os, "GOARCH="+on.arch)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// archiveOf is the name of an archive: .tar.gz, for Windows .zip.
func (r release) archiveOf(name string, on platform) string {
	extension := ".tar.gz"
	if on.os == "windows" {
		extension = ".zip"
	}
	return strings.Join([]string{name, r.version, on.os, on.arch}, "_") + extension
}

// archive writes programs, the licence that they are under, and further files.
func (r release) archive(name string, on platform, dir string, programs []string, further []file) error {
	var files []file
	for _, program := range programs {
		content, err := os.ReadFile(filepath.Join(dir, executable(on, program)))
		if err != nil {
			return err
		}
		files = append(files, file{executable(on, program), 0o755, content})
	}
	license, err := os.ReadFile(filepath.Join(r.root, "LICENSE"))
	if err != nil {
		return err
	}
	files = append(append(files, file{"LICENSE", 0o644, license}), further...)
	pack := tarballOf
	if on.os == "windows" {
		pack = zipOf
	}
	content, err := pack(files)
	if err != nil {
		return err
	}
	return r.write(r.archiveOf(name, on), content)
}

// tarballOf is a compressed tar file without times and owners.
func tarballOf(files []file) ([]byte, error) {
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	w := tar.NewWriter(zipped)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := zipped.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func zipOf(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		header := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		header.SetMode(os.FileMode(f.mode)) //nolint:gosec // permissions
		out, err := w.CreateHeader(header)
		if err != nil {
			return nil, err
		}
		if _, err := out.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
