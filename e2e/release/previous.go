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
)

// Previous builds what another revision of this repository held, and returns its chart and its
// images, keyferry and refresher. What was built once is kept in the user's cache.
func Previous(ctx context.Context, log io.Writer, revision string) (chart string, images Images, err error) {
	commit, err := Commit(ctx, revision)
	if err != nil {
		return "", nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", nil, err
	}
	dir := filepath.Join(cache, "keyferry", "previous-"+commit)
	chart = filepath.Join(dir, "charts", "keyferry")
	if list, err := os.ReadFile(filepath.Join(dir, "images", "list")); err == nil {
		images, err = parse(string(list))
		return chart, images, err
	}
	fmt.Fprintf(log, "building %s (%s)\n", revision, commit)
	if err := extract(ctx, commit, dir); err != nil {
		return "", nil, err
	}
	list, err := build(ctx, log, dir, filepath.Join(dir, "images"), "-version", "v0.0.0-previous-"+commit, "keyferry", "refresher")
	if err != nil {
		return "", nil, err
	}
	if images, err = parse(list); err != nil {
		return "", nil, err
	}
	return chart, images, os.WriteFile(filepath.Join(dir, "images", "list"), []byte(list), 0o600)
}

// Commit returns the abbreviated hash of a revision of this repository.
func Commit(ctx context.Context, revision string) (string, error) {
	return git(ctx, "rev-parse", "--verify", "--short=12", revision+"^{commit}")
}

// extract writes a commit's files into a folder.
func extract(ctx context.Context, commit, dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	archive := filepath.Join(dir, "source.tar")
	if _, err := git(ctx, "archive", "--output", archive, commit); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-C", dir, "-xf", archive).CombinedOutput(); err != nil {
		return fmt.Errorf("extracting %s: %w\n%s", commit, err, out)
	}
	return os.Remove(archive)
}

func git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = Root()
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, problem.String())
	}
	return strings.TrimSpace(string(out)), nil
}
