package broker

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyferry/keyferry/internal/metrics"
)

// Outcomes of a request, in the audit and the metrics.
const (
	outcomeIssued    = "issued"
	outcomeUnchanged = "unchanged"
	outcomeRefused   = "refused"
	// outcomeLocked means that a Lock or ClusterLock denies the request.
	outcomeLocked = "locked"
	// outcomeFailed means that the provider, the API server or the broker failed. outcomeRefused means
	// a decision.
	outcomeFailed    = "failed"
	outcomeAbandoned = "abandoned"
)

// statusClientClosedRequest is nginx's code for a client that disconnected before the response. It
// is used only in metrics.
const statusClientClosedRequest = 499

type measures struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMeasures(registerer prometheus.Registerer) (*measures, error) {
	m := &measures{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyferry_issue_requests_total",
			Help: "Requests for a credential, by outcome (issued, unchanged, refused, locked, failed, abandoned), HTTP status code and cache (hit, miss; none: there is no credential).",
		}, []string{"outcome", "code", "cache"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keyferry_issue_duration_seconds",
			Help:    "Time to answer a request for a credential, by outcome.",
			Buckets: []float64{.001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 25},
		}, []string{"outcome"}),
	}
	return m, metrics.Register(registerer, m.requests, m.duration)
}

// answered audits a successful request. A response that reports no change is not an issue.
func (b *Broker) answered(x *exchange) {
	if x.unchanged {
		latency := b.count(x, outcomeUnchanged, http.StatusNotModified)
		b.cfg.Audit.V(1).Info("credential unchanged", b.auditFields(x, outcomeUnchanged, http.StatusNotModified, latency)...)
		return
	}
	latency := b.count(x, outcomeIssued, http.StatusOK)
	if x.issued.InPod != nil {
		b.cfg.Audit.Info("endpoint returned, credential issued by the Pod's plugin", b.auditFields(x, outcomeIssued, http.StatusOK, latency)...)
		return
	}
	b.cfg.Audit.Info("credential issued", append(b.auditFields(x, outcomeIssued, http.StatusOK, latency),
		"notAfter", x.issued.NotAfter.UTC().Format(time.RFC3339), "credentialID", x.issued.ID)...)
}

// refused audits a request that was rejected or failed.
func (b *Broker) refused(x *exchange, why *statusError) {
	outcome := outcomeRefused
	switch {
	case why.code == http.StatusLocked:
		outcome = outcomeLocked
	case why.code >= http.StatusInternalServerError:
		outcome = outcomeFailed
	}
	latency := b.count(x, outcome, why.code)
	if why.quiet {
		return
	}
	b.cfg.Audit.Info("credential refused", append(b.auditFields(x, outcome, why.code, latency),
		"reason", why.auditReason(), "message", why.message)...)
	// A user can fix the cause only of these codes. The Event matters for running Pods: they would not
	// notice the problem before their credential expires.
	if slices.Contains([]int{http.StatusForbidden, http.StatusLocked, http.StatusNotFound, http.StatusUnprocessableEntity}, why.code) {
		b.events.Refused(x.caller.Identity, why.message)
	}
	if why.cause != nil {
		b.cfg.Log.Error(why.cause, "failed to serve a request", x.objects()...)
	}
}

// abandoned counts a request whose client disconnected before the response. The client received no
// credential, so there is no audit line.
func (b *Broker) abandoned(x *exchange) {
	b.count(x, outcomeAbandoned, statusClientClosedRequest)
	b.cfg.Log.V(1).Info("client disconnected before the response", append(x.objects(), "client", x.client)...)
}

func (b *Broker) count(x *exchange, outcome string, code int) time.Duration {
	latency := b.cfg.Now().Sub(x.start)
	b.measures.requests.WithLabelValues(outcome, strconv.Itoa(code), x.cache()).Inc()
	b.measures.duration.WithLabelValues(outcome).Observe(latency.Seconds())
	return latency
}

// cache returns the value of the label cache: whether the credential was cached, or none.
func (x *exchange) cache() string {
	switch {
	case x.issued.IssuedAt.IsZero():
		return "none"
	case x.issued.Cached:
		return "hit"
	default:
		return "miss"
	}
}

// auditFields returns the fields of every audit line. If the caller was not authenticated, its
// fields are empty.
func (b *Broker) auditFields(x *exchange, outcome string, code int, latency time.Duration) []any {
	fields := []any{
		"outcome", outcome,
		"code", code,
		"namespace", x.caller.Namespace,
		"serviceAccount", x.caller.ServiceAccount,
		"pod", x.caller.PodName,
		"podUID", x.caller.PodUID,
		"client", x.client,
	}
	return append(append(fields, x.objects()...), "latency", latency.String())
}

// objects returns the TargetCluster, the ClusterProfile or both that the request is about, as
// key/value pairs for logs.
func (x *exchange) objects() []any {
	switch {
	case x.asked.IsClusterProfile():
		return []any{"clusterProfile", x.asked.NamespacedName.String()}
	case x.named != nil:
		return []any{"targetCluster", x.asked.NamespacedName.String(), "clusterProfile", x.named.NamespacedName.String()}
	}
	return []any{"targetCluster", x.asked.NamespacedName.String()}
}
