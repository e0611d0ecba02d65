package refresher

import (
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// outcome of asking the broker once.
type outcome string

const (
	outcomeRenewed   outcome = "renewed"   // new files were written
	outcomeUnchanged outcome = "unchanged" // the files are still what the broker wants
	outcomeMoving    outcome = "moving"    // the endpoint moved and a restart is due
	outcomeFailed    outcome = "failed"    // the last good files stay
)

// health is what is told to those who ask how the refresher is. Its zero value is that of a refresher without files.
type health struct {
	mu        sync.Mutex
	counts    map[outcome]int
	notAfter  time.Time
	writtenAt time.Time
	failure   error
	pin       error
}

// written notes a set of files whose credential ends at notAfter; at is zero if a predecessor wrote it.
func (h *health) written(at, notAfter time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writtenAt, h.notAfter = at, notAfter
}

// asked notes the outcome of asking the broker once, and what failed, if anything did.
func (h *health) asked(o outcome, failure error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.counts == nil {
		h.counts = map[outcome]int{}
	}
	h.counts[o]++
	h.failure = failure
	if failure == nil {
		h.pin = nil
	}
}

// pinned notes that the environment is fixed to an endpoint that is no longer the target's, until something else is asked.
func (h *health) pinned(change error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pin = change
}

// problem says why the application cannot work on its target, or "".
func (h *health) problem(now time.Time) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	reason := ""
	if h.failure != nil {
		reason = ": " + h.failure.Error()
	}
	switch {
	case h.notAfter.IsZero():
		return "there is no credential yet" + reason
	case !now.Before(h.notAfter):
		return "the credential ended at " + h.notAfter.UTC().Format(time.RFC3339) + reason
	case h.pin != nil:
		return "the files stay with an endpoint that is no longer the target's" + reason
	default:
		return ""
	}
}

// metrics returns the metrics in the Prometheus text format
// (https://prometheus.io/docs/instrumenting/exposition_formats/).
func (h *health) metrics(version string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	metric := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %[1]s %[3]s\n# TYPE %[1]s %[2]s\n", name, kind, help)
	}
	metric("keyferry_refresher_requests_total", "counter", "Requests to the broker, by outcome.")
	for _, o := range []outcome{outcomeRenewed, outcomeUnchanged, outcomeMoving, outcomeFailed} {
		fmt.Fprintf(&b, "keyferry_refresher_requests_total{outcome=%q} %d\n", o, h.counts[o])
	}
	if !h.notAfter.IsZero() {
		metric("keyferry_refresher_credential_expiry_timestamp_seconds", "gauge", "When the credential in the files ends.")
		fmt.Fprintf(&b, "keyferry_refresher_credential_expiry_timestamp_seconds %d\n", h.notAfter.Unix())
	}
	if !h.writtenAt.IsZero() {
		metric("keyferry_refresher_files_written_timestamp_seconds", "gauge", "When this process last wrote the files.")
		fmt.Fprintf(&b, "keyferry_refresher_files_written_timestamp_seconds %d\n", h.writtenAt.Unix())
	}
	metric("keyferry_refresher_build_info", "gauge", "1, with the version.")
	fmt.Fprintf(&b, "keyferry_refresher_build_info{version=%s,goversion=%s} 1\n", strconv.Quote(version), strconv.Quote(runtime.Version()))
	return b.String()
}

// Handler serves /healthz, which fails once the application cannot work on its target, with the reason, and /metrics.
func (r *Refresher) Handler(version string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if problem := r.health.problem(time.Now()); problem != "" {
			http.Error(w, problem, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		fmt.Fprint(w, r.health.metrics(version))
	})
	return mux
}
