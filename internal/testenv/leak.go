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
	// grace is the time for goroutines to end after they were stopped.
	grace = 30 * time.Second
	// spareFiles is the number of additional open files that is not a leak: the runtime opens some for
	// polling and to read its CPU limit.
	spareFiles = 4
)

// leftovers returns a description of leaked goroutines and files, after it has waited for them to
// end; empty if there are none.
func leftovers(before int) string {
	// Idle connections are not leaks.
	if transport, ok := http.DefaultTransport.(*http.Transport); ok {
		transport.CloseIdleConnections()
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(grace); ; <-tick.C {
		runtime.GC() // closes the pipes that the runtime keeps for splicing connections
		left := strings.Join(ourGoroutines(), "\n\n")
		if now := openFiles(); now > before+spareFiles {
			left += fmt.Sprintf("\n%d files are open, and %d were before: %s", now, before, strings.Join(fileNames(), " "))
		}
		if left == "" || time.Now().After(deadline) {
			return left
		}
	}
}

// ourGoroutines returns the stacks of goroutines that run code of this module, except the caller's.
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

// openFiles returns the number of open files of this process; zero if the system does not report
// it.
func openFiles() int { return len(fileNames()) }

func fileNames() (names []string) {
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		// Ignore the files by which envtest reserves ports.
		if name, err := os.Readlink(dir + entry.Name()); err == nil && !strings.Contains(name, "/kubebuilder-envtest/port-") {
			names = append(names, name)
		}
	}
	return names
}
