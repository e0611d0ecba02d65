package monitoring

import "github.com/go-logr/logr"

// quiet is a LogSink that logs errors as messages at level 1.
type quiet struct{ logr.LogSink }

// Error implements logr.LogSink.
func (q quiet) Error(err error, message string, keysAndValues ...any) {
	if q.Enabled(1) {
		q.Info(1, message, append(keysAndValues, "error", err)...)
	}
}

// WithValues implements logr.LogSink.
func (q quiet) WithValues(keysAndValues ...any) logr.LogSink {
	return quiet{q.LogSink.WithValues(keysAndValues...)}
}

// WithName implements logr.LogSink.
func (q quiet) WithName(name string) logr.LogSink { return quiet{q.LogSink.WithName(name)} }
