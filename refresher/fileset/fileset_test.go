package fileset

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func set(content string) map[string][]byte {
	return map[string][]byte{"token": []byte(content), "ca.crt": []byte(content)}
}

// hidden returns the names in dir that are not for readers.
func hidden(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "..") {
			names = append(names, entry.Name())
		}
	}
	return names
}

func assertSet(t *testing.T, dir, content string) {
	t.Helper()
	files, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 || string(files["token"]) != content || string(files["ca.crt"]) != content {
		t.Errorf("set is %q, want %q in both files", files, content)
	}
	for _, name := range []string{"token", "ca.crt"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != content {
			t.Errorf("%s holds %q (error %v), want %q", name, got, err, content)
		}
	}
}

func write(t *testing.T, dir, content string) {
	t.Helper()
	if err := Write(dir, set(content)); err != nil {
		t.Fatal(err)
	}
}

func TestWriteSwapsWholeSets(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading where no set is: error %v, want fs.ErrNotExist", err)
	}
	for i := range 4 {
		write(t, dir, strconv.Itoa(i))
		assertSet(t, dir, strconv.Itoa(i))
	}
	if got := hidden(t, dir); len(got) != 3 {
		t.Errorf("%q are there, want ..data, the present set and the one before", got)
	}
}

func TestFailedWriteLeavesTheSetAlone(t *testing.T) {
	tooLong := set("b")
	tooLong[strings.Repeat("n", 300)] = []byte("b")
	blocked := set("b")
	blocked["taken"] = []byte("b")

	for name, files := range map[string]map[string][]byte{"while filling": tooLong, "while linking": blocked} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "a")
			if err := os.Mkdir(filepath.Join(dir, "taken"), 0o755); err != nil {
				t.Fatal(err)
			}
			before := hidden(t, dir)
			if err := Write(dir, files); err == nil {
				t.Fatal("no error")
			}
			assertSet(t, dir, "a")
			if after := hidden(t, dir); len(after) != len(before) {
				t.Errorf("%q are left, want %q", after, before)
			}
			write(t, dir, "c")
			assertSet(t, dir, "c")
		})
	}
}

func TestLeftoversOfAKilledWriterAreRemoved(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a")
	if err := os.Mkdir(filepath.Join(dir, "..set-killed"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..set-killed", filepath.Join(dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "b")
	assertSet(t, dir, "b")
	if got := strings.Join(hidden(t, dir), " "); strings.Contains(got, "killed") || strings.Contains(got, "tmp") {
		t.Errorf("left over: %s", got)
	}
}

// TestReadersSeeWholeSets reads files by their names and with Read while sets are replaced. A
// reader reports after each replacement, so each read overlaps with at most one of them,
// independent of timing.
func TestReadersSeeWholeSets(t *testing.T) {
	const readers, swaps, size = 2, 300, 8 << 10
	dir := t.TempDir()
	content := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), size) }
	write(t, dir, content(0))

	var verdicts [readers]chan error
	for i := range verdicts {
		verdicts[i] = make(chan error)
		go func() {
			for range swaps {
				verdicts[i] <- readWhole(dir, size)
			}
		}()
	}
	for i := range swaps {
		write(t, dir, content(i))
		for _, verdict := range verdicts {
			if err := <-verdict; err != nil {
				t.Fatal(err)
			}
		}
	}
}

func readWhole(dir string, size int) error {
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return err
	}
	if len(token) != size || len(bytes.Trim(token, string(token[:1]))) != 0 {
		return fmt.Errorf("token was torn: %d bytes", len(token))
	}
	files, err := Read(dir)
	if err != nil {
		return err
	}
	if !bytes.Equal(files["token"], files["ca.crt"]) {
		return errors.New("two files of one set are of different sets")
	}
	return nil
}

func TestWritten(t *testing.T) {
	dir := t.TempDir()
	if got := Written(dir); !got.IsZero() {
		t.Errorf("without a set: %s", got)
	}
	before := time.Now().Add(-time.Minute)
	if err := Write(dir, map[string][]byte{"token": []byte("a")}); err != nil {
		t.Fatal(err)
	}
	if got := Written(dir); got.Before(before) || got.After(time.Now().Add(time.Minute)) {
		t.Errorf("written at %s", got)
	}
}
