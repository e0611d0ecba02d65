// Package memory keeps programs within the memory limit of their container.
package memory

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// Limit makes the garbage collector run more often when memory use is near the memory.max of the
// process's control group, before the kernel kills the process. A limit in the environment variable
// GOMEMLIMIT takes precedence.
func Limit() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	memoryMax, _ := os.ReadFile("/sys/fs/cgroup/memory.max") // does not exist with cgroup v1
	debug.SetMemoryLimit(limit(string(memoryMax)))
}

// limit returns the heap limit for a memory.max, in bytes. The rest is for memory that the kernel
// uses for the process, for example for connections.
func limit(memoryMax string) int64 {
	bytes, err := strconv.ParseInt(strings.TrimSpace(memoryMax), 10, 64)
	if err != nil {
		return math.MaxInt64 // memory.max is "max"
	}
	return bytes / 4 * 3
}
