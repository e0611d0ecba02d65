package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// layer is a file system with the programs of dir at its root and, if wanted, Mozilla's CA
// certificates where Go looks for them. Owners and times are always the same.
func layer(dir string, certificates bool) (v1.Layer, error) {
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		program, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		if err := add(w, entry.Name(), 0o755, program); err != nil {
			return nil, err
		}
	}
	if certificates {
		if err := addCertificates(w); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	})
}

func addCertificates(w *tar.Writer) error {
	for _, dir := range []string{"etc/", "etc/ssl/", "etc/ssl/certs/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	var file bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue // trusted in part only, which a file cannot say
		}
		if err := pem.Encode(&file, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return err
		}
	}
	return add(w, "etc/ssl/certs/ca-certificates.crt", 0o644, file.Bytes())
}

func add(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
