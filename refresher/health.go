package refresher

import (
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// outcome is the outcome of a request to the broker.
type outcome string

const (
	outcomeRenewed   outcome = "renewed"   // new files were written
	outcomeUnchanged outcome = "unchanged" // the files are still up to date
	outcomeMoving    outcome = "moving"    // the endpoint changed and a restart is due
	outcomeFailed    outcome = "failed"    // the last good files stay
)

// health is the state that /healthz and the metrics report. The zero value is that of a refresher
// without files.
type health struct {
	mu        sync.Mutex
	counts    map[outcome]int
	notAfter  time.Time
	writtenAt time.Time
	failure   error
	pin       error
}

// written records when a set of files was written and when its credential expires.
func (h *health) written(at, notAfter time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writtenAt, h.notAfter = at, notAfter
}

// asked records the outcome of a request to the broker, and the error if it failed.
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

// pinned records that the environment has a fixed endpoint that is no longer the target's. The next
// successful request clears it.
func (h *health) pinned(change error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pin = change
}

// problem returns why the application cannot use its target, or "".
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
		return "the files still have an endpoint that is no longer the target's" + reason
	default:
		return ""
	}
}

// snapshot contains the values of one refresher for the metrics.
type snapshot struct {
	counts              map[outcome]int
	notAfter, writtenAt time.Time
}

func (h *health) snapshot() snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return snapshot{maps.Clone(h.counts), h.notAfter, h.writtenAt}
}

// metrics returns the metrics in the Prometheus text format
// (https://prometheus.io/docs/instrumenting/exposition_formats/).
func metrics(version string, refreshers []*Refresher) string {
	var b strings.Builder
	family := func(name, kind, help string, samples func(target string, s snapshot)) {
		fmt.Fprintf(&b, "# HELP %[1]s %[3]s\n# TYPE %[1]s %[2]s\n", name, kind, help)
		for _, r := range refreshers {
			samples(r.labels(), r.health.snapshot())
		}
	}
	moment := func(name, help string, of func(snapshot) time.Time) {
		family(name, "gauge", help, func(target string, s snapshot) {
			if at := of(s); !at.IsZero() {
				fmt.Fprintf(&b, "%s{%s} %d\n", name, target, at.Unix())
			}
		})
	}
	const requests = "keyferry_refresher_requests_total"
	family(requests, "counter", "Requests to the broker, by outcome (renewed, unchanged, moving, failed).", func(target string, s snapshot) {
		for _, o := range []outcome{outcomeRenewed, outcomeUnchanged, outcomeMoving, outcomeFailed} {
			fmt.Fprintf(&b, "%s{%s,outcome=%q} %d\n", requests, target, o, s.counts[o])
		}
	})
	moment("keyferry_refresher_credential_expiration_timestamp_seconds", "Time at which the credential in the files expires.", func(s snapshot) time.Time { return s.notAfter })
	moment("keyferry_refresher_files_written_timestamp_seconds", "Time at which the files were last written.", func(s snapshot) time.Time { return s.writtenAt })
	fmt.Fprintf(&b, "# HELP keyferry_build_info Constant 1, labeled by the component, the version of the program, and the version of Go.\n# TYPE keyferry_build_info gauge\n"+
		"keyferry_build_info{component=\"refresher\",version=%s,goversion=%s} 1\n", strconv.Quote(version), strconv.Quote(runtime.Version()))
	return b.String()
}

// labels returns the labels of the refresher's metrics.
func (r *Refresher) labels() string {
	if r.config.ClusterProfile != "" {
		return fmt.Sprintf("kind=%q,target=%q", "ClusterProfile", r.config.ClusterProfile)
	}
	return fmt.Sprintf("kind=%q,target=%q", "TargetCluster", r.config.Target)
}

// Handler serves /metrics and /healthz. /healthz fails if the application cannot use the target of
// one of the refreshers, and returns the reasons.
func Handler(version string, refreshers ...*Refresher) http.Handler {
	// An http.ServeMux would make the program, which is in every Pod, larger than two paths justify.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/healthz" && r.URL.Path != "/metrics":
			http.NotFound(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "use GET", http.StatusMethodNotAllowed)
		case r.URL.Path == "/healthz":
			serveHealth(w, refreshers)
		default:
			w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
			fmt.Fprint(w, metrics(version, refreshers))
		}
	})
}

func serveHealth(w http.ResponseWriter, refreshers []*Refresher) {
	var problems []string
	for _, r := range refreshers {
		if problem := r.health.problem(time.Now()); problem != "" {
			problems = append(problems, r.object+": "+problem)
		}
	}
	if problems != nil {
		http.Error(w, strings.Join(problems, "\n"), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}
