package release

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Extract writes the files of another revision of this repository into a directory of the user's
// cache, and returns the directory, and a version for a release of it.
func Extract(ctx context.Context, revision string) (dir, version string, err error) {
	commit, err := Commit(ctx, revision)
	if err != nil {
		return "", "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", err
	}
	dir = filepath.Join(cache, "keyferry", "previous-"+commit)
	return dir, "v0.0.0-previous-" + commit, extract(ctx, commit, dir)
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
