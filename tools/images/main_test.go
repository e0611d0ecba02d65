package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// TestImages: in an image there are its programs, and certificates where they are needed, and
// nothing else; it runs as nobody in particular.
func TestImages(t *testing.T) {
	for _, img := range images() {
		t.Run(img.name, func(t *testing.T) {
			dir := t.TempDir()
			var want []string
			for _, pkg := range img.packages {
				program := path.Base(pkg)
				if program == "." {
					program = path.Base(img.dir)
				}
				if err := os.WriteFile(filepath.Join(dir, program), []byte(program), 0o600); err != nil {
					t.Fatal(err)
				}
				want = append(want, program)
			}
			if img.certificates {
				want = append(want, "etc/", "etc/ssl/", "etc/ssl/certs/", "etc/ssl/certs/ca-certificates.crt")
			}
			built, err := builder{}.assemble(img, "v1.2.3", dir, "amd64")
			if err != nil {
				t.Fatal(err)
			}
			file, err := built.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			config := file.Config
			if config.User != nonRoot || strings.HasPrefix(config.User, "0") {
				t.Errorf("the user is %q", config.User)
			}
			if len(config.Entrypoint) != 1 || !slices.Contains(want, strings.TrimPrefix(config.Entrypoint[0], "/")) || len(config.Cmd) > 0 || len(config.Shell) > 0 || len(config.Env) > 0 {
				t.Errorf("the configuration is %+v", config)
			}
			layers, err := built.Layers()
			if err != nil || len(layers) != 1 {
				t.Fatalf("%d layers: %v", len(layers), err)
			}
			content, err := layers[0].Uncompressed()
			if err != nil {
				t.Fatal(err)
			}
			defer content.Close()
			if got := names(t, content); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
				t.Errorf("it holds %q, want %q", got, want)
			}
		})
	}
}

// names returns those in a tar file, sorted, and finds what no file of an image may be.
func names(t *testing.T, content io.Reader) (all []string) {
	t.Helper()
	for r := tar.NewReader(content); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(all)
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Mode&^0o755 != 0 || header.Uid != 0 || header.Typeflag != tar.TypeDir && header.Typeflag != tar.TypeReg {
			t.Errorf("%s has mode %o and owner %d", header.Name, header.Mode, header.Uid)
		}
		all = append(all, header.Name)
	}
}

// TestDockerfile: it makes the same images: from nothing, as the same user, with the same entry
// points.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	stages := regexp.MustCompile(`(?m)^FROM `).Split(string(text), -1)
	found := map[string]string{}
	for _, stage := range stages[1:] {
		line, rest, _ := strings.Cut(stage, "\n")
		base, name, _ := strings.Cut(line, " AS ")
		if name != "build" && base != "scratch" {
			t.Errorf("stage %s is from %s", name, base)
		}
		found[name] = rest
	}
	for _, img := range images() {
		if img.tag != "" {
			continue // for tests
		}
		if stage := found[img.name]; !strings.Contains(stage, "\nUSER "+nonRoot+"\n") || !strings.Contains(stage, `ENTRYPOINT ["`+img.entrypoint+`"]`) {
			t.Errorf("stage %s is %q", img.name, stage)
		}
	}
}

// TestDockerignore: the files that the Dockerfile runs and compiles are sent to Docker, and tests
// are not.
func TestDockerignore(t *testing.T) {
	file, err := os.Open(filepath.Join("..", "..", ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines, err := ignorefile.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	patterns, err := patternmatcher.New(lines)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{
		"go.mod": true, "go.sum": true, "cmd/webhook/main.go": true, "tools/build": true, "tools/goflags": true,
		"cmd/webhook/main_test.go": false, "tools/images/main.go": false, "e2e/go.mod": false, "dist/bin/broker": false, ".git/config": false,
	} {
		ignored, err := patterns.MatchesOrParentMatches(file)
		if err != nil {
			t.Fatal(err)
		}
		if ignored == want {
			t.Errorf("%s: sent to Docker %t, want %t", file, !ignored, want)
		}
	}
}
