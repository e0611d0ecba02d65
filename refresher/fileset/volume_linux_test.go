package fileset

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestModesDoNotDependOnUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	write(t, dir, "a")
	for name, want := range map[string]fs.FileMode{"token": 0o644, "ca.crt": 0o644, "..data": 0o755 | fs.ModeDir} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
}

// smallVolume mounts a file system. It needs root, which CI has.
func smallVolume(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("mounting a small tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) }) // the folder is thrown away
	return dir
}

// TestFullVolume writes a set that does not fit. TestFailedWriteLeavesTheSetAlone covers the same
// code without a mount.
func TestFullVolume(t *testing.T) {
	dir := smallVolume(t, "size=256k")
	write(t, dir, "a")

	big := set("b")
	big["token"] = bytes.Repeat([]byte("b"), 1<<20)
	if err := Write(dir, big); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error %v, want ENOSPC", err)
	}
	assertSet(t, dir, "a")
	write(t, dir, "c")
	assertSet(t, dir, "c")
}

// TestReadOnlyVolume writes to a file system that is read-only for a while.
func TestReadOnlyVolume(t *testing.T) {
	dir := smallVolume(t, "size=256k")
	remount := func(flags uintptr) {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, "size=256k"); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "a")
	write(t, dir, "b")
	remount(syscall.MS_RDONLY)
	if err := Write(dir, set("c")); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("error %v, want EROFS", err)
	}
	assertSet(t, dir, "b")
	remount(0)
	write(t, dir, "d")
	assertSet(t, dir, "d")
}

// TestFullFromTheStart checks that there is no set, not a part of one, if the first one does not
// fit.
func TestFullFromTheStart(t *testing.T) {
	dir := smallVolume(t, "size=64k")
	big := set("a")
	big["token"] = bytes.Repeat([]byte("a"), 1<<20)
	if err := Write(dir, big); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error %v, want ENOSPC", err)
	}
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading what was not written: error %v", err)
	}
	if _, err := os.Lstat(dir + "/token"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a token: %v", err)
	}
	write(t, dir, "b")
	assertSet(t, dir, "b")
}
