package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const checksums = "SHA256SUMS"

// checkSums compares the files of a release with its checksums.
func checkSums(dir string) error {
	content, err := os.ReadFile(filepath.Join(dir, checksums))
	if err != nil {
		return fmt.Errorf("%w: run make release first", err)
	}
	for line := range strings.Lines(string(content)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		file, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			return fmt.Errorf("%s lists %s: %w", checksums, name, err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(file)); got != sum {
			return fmt.Errorf("%s: its checksum is %s, and %s lists %s: run make release again", name, got, checksums, sum)
		}
	}
	return nil
}

// unpack writes the files of a tar file to dir.
func unpack(file, dir string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for r := tar.NewReader(in); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if err := unpackFile(root, header.Name, r); err != nil {
			return fmt.Errorf("unpacking %s: %w", file, err)
		}
	}
}

func unpackFile(root *os.Root, name string, content io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	out, err := root.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, content)
	return errors.Join(err, out.Close())
}
