// Package bench measures whole programs, as they are released, beside floors. `make bench` runs it.
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// process is a program that runs.
type process struct {
	b   *testing.B
	pid int
}

// build returns the path of a program of ours, built as it is released.
func build(b *testing.B, name string) string {
	b.Helper()
	dir, err := filepath.Abs("../dist/bench")
	must(b, err)
	cmd := exec.CommandContext(b.Context(), "tools/build", "v0.0.0-bench", dir, "./cmd/"+name)
	cmd.Dir, cmd.Stderr = "..", os.Stderr
	must(b, cmd.Run())
	return filepath.Join(dir, name)
}

// run runs a program for as long as b takes. What it says is shown if b fails.
func run(b *testing.B, env []string, program string, args ...string) *process {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	said := new(bytes.Buffer)
	cmd := exec.CommandContext(ctx, program, args...) // #nosec G204 -- for benchmarks only
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = said, said
	must(b, cmd.Start())
	b.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
		if b.Failed() {
			b.Logf("%s said:\n%.4000s", filepath.Base(program), said)
		}
	})
	return &process{b, cmd.Process.Pid}
}

func (p *process) file(name string) string {
	p.b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.pid), name))
	must(p.b, err)
	return string(text)
}

// cpu is how long its threads have run.
func (p *process) cpu() time.Duration {
	p.b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid))
	must(p.b, err)
	var sum time.Duration
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		nanoseconds, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		must(p.b, err)
		sum += time.Duration(nanoseconds)
	}
	return sum
}

// memory is what is resident, and what of it is the process's alone and written to, in MiB.
func (p *process) memory() (resident, dirty float64) {
	p.b.Helper()
	of := func(key string) float64 {
		for line := range strings.Lines(p.file("smaps_rollup")) {
			if fields := strings.Fields(line); fields[0] == key {
				kilobytes, err := strconv.ParseFloat(fields[1], 64)
				must(p.b, err)
				return kilobytes / 1024
			}
		}
		p.b.Fatalf("smaps_rollup has no %s", key)
		return 0
	}
	return of("Rss:"), of("Private_Dirty:")
}

// free is an address at loopback that nobody listens at.
func free(b *testing.B) string {
	b.Helper()
	listener, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	must(b, err)
	defer listener.Close()
	return listener.Addr().String()
}

// until waits for something that takes a while, and for no longer than two minutes.
func until(b *testing.B, what string, done func() bool) {
	b.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); pause(b, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("%s did not happen", what)
		}
	}
}

// pause lets time pass.
func pause(b *testing.B, d time.Duration) {
	b.Helper()
	select {
	case <-time.After(d):
	case <-b.Context().Done():
	}
}

// percentile of durations, in seconds.
func percentile(all []time.Duration, p int) float64 {
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*p/100)].Seconds()
}

func write(b *testing.B, path string, content any) {
	b.Helper()
	text, ok := content.([]byte)
	if !ok {
		var err error
		text, err = json.Marshal(content)
		must(b, err)
	}
	must(b, os.MkdirAll(filepath.Dir(path), 0o700))
	must(b, os.WriteFile(path, text, 0o600))
}

func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func answerJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}
