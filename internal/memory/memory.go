// Package memory keeps programs within the memory that their containers may have.
package memory

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// Limit has garbage collected more often near the memory.max of the process's control group, before
// the kernel kills the process. A limit that the environment sets, as GOMEMLIMIT, stays.
func Limit() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	memoryMax, _ := os.ReadFile("/sys/fs/cgroup/memory.max") // not there with cgroup v1
	debug.SetMemoryLimit(limit(string(memoryMax)))
}

// limit returns the heap that keeps a process within memory.max, in bytes. What the kernel holds
// for it, as for its connections, needs the rest.
func limit(memoryMax string) int64 {
	bytes, err := strconv.ParseInt(strings.TrimSpace(memoryMax), 10, 64)
	if err != nil {
		return math.MaxInt64 // "max"
	}
	return bytes / 4 * 3
}
