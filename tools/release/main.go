// Release writes everything of a release, from the repository's files alone: the same commit gives
// the same bytes, wherever and whenever it is built.
//
//	release [-root DIR] [-out dist/release] [-platforms linux/amd64,…] [-programs DIR] -version v1.2.3
//
// It writes archives of the programs, a krew manifest and a Homebrew formula for the command,
// container images, the chart, install.yaml, bills of materials, and SHA256SUMS of all files.
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const module = "github.com/keyferry/keyferry"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := flag.String("root", "../..", "the repository's root")
	out := flag.String("out", "", "folder to write to, which is emptied (default: dist/release in the root)")
	version := flag.String("version", "", "version, such as v1.2.3")
	on := flag.String("platforms", platforms, "what programs are built for; images are for those of Linux")
	programs := flag.String("programs", "", "directory with the programs, in OS-ARCH each (default: build them)")
	flag.Parse()
	if err := run(ctx, *root, *out, *version, *on, *programs); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

// release is where its files come from and go to.
type release struct {
	root, out, version string
	platforms          []platform
	// work is for files on the way, which are removed in the end.
	work string
	// prebuilt is the directory of programs that are built already; empty if none are.
	prebuilt string
	// time is the commit's, for formats that want one.
	time time.Time
}

func run(ctx context.Context, root, out, version, platforms, programs string) error {
	if !strings.HasPrefix(version, "v") {
		return fmt.Errorf("-version=%s: want one that begins with v, such as v1.2.3", version)
	}
	on, err := parsePlatforms(platforms)
	if err != nil {
		return err
	}
	if root, err = filepath.Abs(root); err != nil {
		return err
	}
	if out == "" {
		out = filepath.Join(root, "dist", "release")
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "keyferry-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	r := release{root: root, out: out, version: version, platforms: on, work: work, prebuilt: programs}
	if r.time, err = commitTime(ctx, root); err != nil {
		return err
	}
	accompanying, err := r.accompanying(ctx)
	if err != nil {
		return err
	}
	built, err := r.programs(ctx, accompanying)
	if err != nil {
		return err
	}
	for _, write := range []func() error{
		r.krew,
		r.homebrew,
		func() error { return r.images(ctx) },
		r.chart,
		func() error { return r.manifest(ctx) },
		func() error { return r.billsOfMaterials(built) },
		r.checksums,
	} {
		if err := write(); err != nil {
			return err
		}
	}
	return nil
}

// commitTime is when the last commit was made, or SOURCE_DATE_EPOCH.
func commitTime(ctx context.Context, root string) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.CommandContext(ctx, "git", "-C", root, "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("asking git for the commit's time (SOURCE_DATE_EPOCH says it, too): %w", err)
		}
		text = strings.TrimSpace(string(out))
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the commit's time: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// manifest has tools/chart write install.yaml, which installs Keyferry without Helm.
func (r release) manifest(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "run", "-trimpath", ".", "install", "-chart", filepath.Join(r.root, "charts", "keyferry"),
		"-version", r.version, "-out", r.out)
	cmd.Dir = filepath.Join(r.root, "tools", "chart")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("writing install.yaml: %w", err)
	}
	return nil
}

func images() []string { return []string{"keyferry", "refresher"} }

// images has tools/images write the images of the programs, for all architectures in one file each.
func (r release) images(ctx context.Context) error {
	var archs []string
	for _, on := range r.platforms {
		if on.os == "linux" {
			archs = append(archs, on.arch)
		}
	}
	if len(archs) == 0 {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", "run", "-trimpath", ".", "-root", r.root, "-programs", r.work, "-out", r.work, "-version", r.version, "-arch", strings.Join(archs, ","), "-oci")
	cmd.Dir = filepath.Join(r.root, "tools", "images")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building images: %w", err)
	}
	for _, image := range images() {
		content, err := os.ReadFile(filepath.Join(r.work, image+".tar"))
		if err != nil {
			return err
		}
		if err := r.write(fmt.Sprintf("image-%s_%s.oci.tar", image, r.version), content); err != nil {
			return err
		}
	}
	return nil
}

// checksums writes SHA256SUMS, which `sha256sum --check` reads.
func (r release) checksums() error {
	files, err := os.ReadDir(r.out) // sorted by name
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, file := range files {
		sum, err := r.checksum(file.Name())
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, file.Name())
	}
	fmt.Print(sums.String())
	return r.write("SHA256SUMS", []byte(sums.String()))
}

// checksum returns the SHA-256 of a written file, in hexadecimal.
func (r release) checksum(name string) (string, error) {
	content, err := os.ReadFile(filepath.Join(r.out, name))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256(content)), nil
}

func (r release) write(name string, content []byte) error {
	return os.WriteFile(filepath.Join(r.out, name), content, 0o644)
}
