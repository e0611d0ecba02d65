package testenv

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"
)

const (
	// grace is how long what was told to end may take.
	grace = 30 * time.Second
	// spareFiles is how many more files than before may be open: those by which the runtime waits, and
	// reads what CPU it may use.
	spareFiles = 4
)

// leftovers says what is left of the tests, once it had the time to end; empty if there is nothing.
func leftovers(before int) string {
	// Idle connections are no leak.
	if transport, ok := http.DefaultTransport.(*http.Transport); ok {
		transport.CloseIdleConnections()
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(grace); ; <-tick.C {
		runtime.GC() // which closes the pipes that the runtime keeps for splicing connections
		left := strings.Join(ourGoroutines(), "\n\n")
		if now := openFiles(); now > before+spareFiles {
			left += fmt.Sprintf("\n%d files are open, and %d were before: %s", now, before, strings.Join(fileNames(), " "))
		}
		if left == "" || time.Now().After(deadline) {
			return left
		}
	}
}

// ourGoroutines returns the stacks of those that run this module's code, except the one that asks.
func ourGoroutines() (ours []string) {
	stacks := make([]byte, 8<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	all := strings.Split(string(stacks), "\n\n")
	for _, stack := range all[1:] {
		if strings.Contains(stack, "github.com/keyferry/keyferry/") {
			ours = append(ours, stack)
		}
	}
	return ours
}

// openFiles is how many files this process has open; zero where the system does not tell.
func openFiles() int { return len(fileNames()) }

func fileNames() (names []string) {
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		// envtest keeps the files by which it reserves ports.
		if name, err := os.Readlink(dir + entry.Name()); err == nil && !strings.Contains(name, "/kubebuilder-envtest/port-") {
			names = append(names, name)
		}
	}
	return names
}
