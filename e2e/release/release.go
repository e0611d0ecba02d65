// Package release brings what this work tree holds into a cluster, the way its users do: images,
// and a Helm release.
package release

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/keyferry/keyferry/e2e/cluster"
)

// The release, and the namespace that it is in.
const (
	Name      = "keyferry"
	Namespace = "keyferry-system"
)

// Image is a built image.
type Image struct {
	// Reference is its name and tag, such as ghcr.io/keyferry/refresher:v1.2.3.
	Reference string
	// File is a tar file, as `docker save` writes it.
	File string
}

// Images is what is built, by name.
type Images map[string]Image

// Build builds the images of these names from the work tree. Progress goes to log.
func Build(ctx context.Context, log io.Writer, names ...string) (Images, error) {
	var list bytes.Buffer
	fmt.Fprintln(log, "compiling tools/images, which builds images")
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", ".", "-root", Root(), "-out", filepath.Join(Root(), "dist", "images")}, names...)...)
	cmd.Dir = filepath.Join(Root(), "tools", "images")
	cmd.Stdout, cmd.Stderr = &list, log
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("building images: %w", err)
	}
	return parse(list.String())
}

func parse(list string) (Images, error) {
	images := Images{}
	for line := range strings.Lines(list) {
		reference, file, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			return nil, fmt.Errorf("building images: unexpected output %q", line)
		}
		images[strings.TrimSuffix(filepath.Base(file), ".tar")] = Image{Reference: reference, File: file}
	}
	return images, nil
}

// Load puts images on the nodes of a kind cluster. Other clusters must be able to pull them.
func Load(ctx context.Context, log io.Writer, c *cluster.Cluster, images Images) error {
	if c.Kind == "" {
		fmt.Fprintf(log, "the %s cluster is not of kind: it pulls its images\n", c.Name)
		return nil
	}
	for _, image := range images {
		fmt.Fprintf(log, "loading %s into the %s cluster\n", image.Reference, c.Name)
		if err := c.Load(ctx, image.File); err != nil {
			return err
		}
	}
	return nil
}

// Install installs or upgrades the work tree's chart with the images and documents of further
// values, in YAML, and waits until everything runs.
func Install(ctx context.Context, log io.Writer, c *cluster.Cluster, images Images, values ...string) error {
	fmt.Fprintf(log, "installing the chart into the %s cluster\n", c.Name)
	args := []string{
		"upgrade", "--install", Name, filepath.Join(Root(), "charts", "keyferry"),
		"--kubeconfig", c.Kubeconfig, "--namespace", Namespace, "--create-namespace", "--wait", "--timeout", "5m",
	}
	for i, document := range values {
		file := filepath.Join(cluster.Dir(), fmt.Sprintf("values-%d.yaml", i))
		if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
			return err
		}
		args = append(args, "--values", file)
	}
	for value, name := range map[string]string{"image": "keyferry", "refresher.image": "refresher"} {
		reference := images[name].Reference
		colon := strings.LastIndexByte(reference, ':')
		args = append(args, "--set", value+".repository="+reference[:colon], "--set", value+".tag="+reference[colon+1:])
	}
	return Helm(ctx, args...)
}

// Helm runs Helm in the version that this repository pins.
func Helm(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(Root(), "tools", "run"), append([]string{"helm"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("helm %s: %w\n%s", args[0], err, out.String())
	}
	return nil
}

// Root is the repository's root.
func Root() string { return cluster.Root() }
