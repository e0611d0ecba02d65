package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// TestLayout: a file holds both architectures under one name, and is the same each time.
func TestLayout(t *testing.T) {
	t.Parallel()
	reference, err := name.NewTag("ghcr.io/keyferry/keyferry:v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	var files [2][]byte
	for i := range files {
		file := filepath.Join(t.TempDir(), "image.tar")
		if err := writeLayout(file, reference, map[string]v1.Image{"amd64": empty.Image, "arm64": empty.Image}); err != nil {
			t.Fatal(err)
		}
		if files[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("two files of the same images differ")
	}
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(files[0])); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, header.Name)
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1.2.3" {
		t.Fatalf("the layout holds %+v", manifest.Manifests)
	}
	images, err := root.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if manifest, err = images.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		if i >= len(manifest.Manifests) || manifest.Manifests[i].Platform.Architecture != arch {
			t.Errorf("image %d is not for %s: %+v", i, arch, manifest.Manifests)
		}
	}
}
