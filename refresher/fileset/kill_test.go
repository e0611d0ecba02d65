package fileset

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// isWriter makes a copy of the test program write sets to its working directory: one for each byte
// that it reads.
const isWriter = "KEYFERRY_TEST_WRITER"

// killedSize is large enough that a process can be killed during a write.
const killedSize = 2 << 20

func TestMain(m *testing.M) {
	if os.Getenv(isWriter) == "" {
		os.Exit(m.Run())
	}
	for letter := make([]byte, 1); ; {
		if _, err := os.Stdin.Read(letter); err != nil {
			os.Exit(0)
		}
		if err := Write(".", set(strings.Repeat(string(letter), killedSize))); err != nil {
			os.Exit(1)
		}
	}
}

// TestKilledWriters kills a writer repeatedly, at any moment. No read may find a set that is
// missing, empty or mixed. Each read overlaps with only one writer.
func TestKilledWriters(t *testing.T) {
	const writers = 40
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, strings.Repeat("z", killedSize))
	verdicts := make(chan error)
	go func() {
		for {
			select {
			case verdicts <- readWhole(dir, killedSize):
			case <-t.Context().Done():
				return
			}
		}
	}()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	early, random := 0, rand.New(rand.NewPCG(1, 2))
	for i := range writers {
		letter := string(rune('a' + i%25))
		writer := exec.CommandContext(t.Context(), program)
		writer.Env, writer.Dir = append(os.Environ(), isWriter+"=yes"), dir
		writer.Stdin = strings.NewReader(letter)
		before := listed(t, dir)
		check(writer.Start())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = writer.Wait() }()
		// The first sign of the write, and then any moment of it.
		for listed(t, dir) == before && !closed(ended) {
			select {
			case err := <-verdicts:
				check(err)
			default:
			}
		}
		for start, until := time.Now(), time.Duration(random.Int64N(int64(3*time.Millisecond))); time.Since(start) < until; {
			runtime.Gosched()
		}
		_ = writer.Process.Kill() // an error means that it is done
		<-ended
		check(<-verdicts)
		check(<-verdicts)
		if files, err := Read(dir); err != nil || files["token"][0] != letter[0] {
			early++
		}
	}
	t.Logf("%d of %d writers were killed before they had swapped", early, writers)
	write(t, dir, "end")
	assertSet(t, dir, "end")
	if left := hidden(t, dir); len(left) > 3 {
		t.Errorf("left over: %q", left)
	}
}

// listed returns the names in dir.
func listed(t *testing.T, dir string) string {
	t.Helper()
	return strings.Join(hidden(t, dir), "/")
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
