// Package artifacts makes what a run on clusters needs from the source: images, and programs to work with.
package artifacts

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Image is an image in a file, as `docker save` writes it.
type Image struct {
	// Name is the part that says what it is, such as "keyferry".
	Name string
	// Reference is its whole name: ghcr.io/keyferry/keyferry:v1.2.3.
	Reference string
	// File is the path of the tar file.
	File string
}

// Repository is the reference without its tag.
func (i Image) Repository() string { return i.Reference[:strings.LastIndexByte(i.Reference, ':')] }

// Tag is the part of the reference after its repository.
func (i Image) Tag() string { return i.Reference[strings.LastIndexByte(i.Reference, ':')+1:] }

// Images builds images by their names: keyferry, refresher, e2e-client, e2e-podtools.
func Images(ctx context.Context, log io.Writer, names ...string) (map[string]Image, error) {
	args := append([]string{"run", ".", "-root", Root(), "-out", filepath.Join(Root(), "dist", "images")}, names...)
	out, err := output(ctx, log, filepath.Join(Root(), "tools", "images"), "go", args...)
	if err != nil {
		return nil, fmt.Errorf("building images: %w", err)
	}
	images := make(map[string]Image, len(names))
	for line := range strings.Lines(out) {
		var image Image
		if _, err := fmt.Sscan(line, &image.Reference, &image.File); err != nil {
			return nil, fmt.Errorf("building images: unexpected output %q", line)
		}
		image.Name = strings.TrimSuffix(filepath.Base(image.File), ".tar")
		images[image.Name] = image
	}
	return images, nil
}

// Tool builds a tool of the folder tools, such as "helm", and returns the program's path.
func Tool(ctx context.Context, log io.Writer, name string) (string, error) {
	out, err := output(ctx, log, Root(), filepath.Join(Root(), "tools", "run"), "--build", name)
	if err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	return strings.TrimSpace(out), nil
}

// Kubectl returns the path of kubectl: the user's own, else one that it builds.
func Kubectl(ctx context.Context, log io.Writer) (string, error) {
	if path, err := exec.LookPath("kubectl"); err == nil {
		return path, nil
	}
	dir, err := output(ctx, log, Root(), filepath.Join(Root(), "e2e", "kind", "binaries.sh"), "kubectl")
	if err != nil {
		return "", fmt.Errorf("building kubectl: %w", err)
	}
	return filepath.Join(strings.TrimSpace(dir), "kubectl"), nil
}

// Root is the repository's root folder.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// output runs a program in dir; what it says about its progress goes to log.
func output(ctx context.Context, log io.Writer, dir, program string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // the callers' own programs
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return "", err
	}
	return out.String(), nil
}
