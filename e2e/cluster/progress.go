package cluster

import (
	"fmt"
	"io"
	"strings"
	"time"

	"sigs.k8s.io/kind/pkg/log"
)

// progress is a logger for kind that prints one line for each step that begins: two clusters share
// a terminal.
type progress struct {
	out   io.Writer
	name  string
	start time.Time
}

func newProgress(out io.Writer, name string) progress {
	return progress{out: out, name: name, start: time.Now()}
}

func (p progress) Warn(message string)               { p.print(message) }
func (p progress) Warnf(format string, args ...any)  { p.print(fmt.Sprintf(format, args...)) }
func (p progress) Error(message string)              { p.print(message) }
func (p progress) Errorf(format string, args ...any) { p.print(fmt.Sprintf(format, args...)) }
func (p progress) V(level log.Level) log.InfoLogger  { return info{p, level == 0} }

func (p progress) print(message string) {
	message = strings.TrimSpace(message)
	if message == "" || strings.HasPrefix(message, "✓") {
		return
	}
	message = strings.TrimSpace(strings.TrimPrefix(message, "•"))
	fmt.Fprintf(p.out, "%3.0f s  %s: %s\n", time.Since(p.start).Seconds(), p.name, message)
}

type info struct {
	progress
	enabled bool
}

func (i info) Enabled() bool { return i.enabled }

func (i info) Info(message string) {
	if i.enabled {
		i.print(message)
	}
}

func (i info) Infof(format string, args ...any) { i.Info(fmt.Sprintf(format, args...)) }
