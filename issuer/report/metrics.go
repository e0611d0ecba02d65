package report

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/metrics"
	"github.com/keyferry/keyferry/issuer"
)

const (
	// forgetAfter is for targets that no client requests any more.
	forgetAfter = 24 * time.Hour
	// readTimeout bounds the search for deleted targets, for which a scrape waits.
	readTimeout = 5 * time.Second
)

// target is a TargetCluster or a ClusterProfile.
type target struct {
	kind string
	types.NamespacedName
}

// lastSeen is when requests for a target last succeeded and failed, and when its newest credential
// expires.
type lastSeen struct {
	success, failure, notAfter time.Time
}

// collector has the metrics of providers and targets.
type collector struct {
	cfg Config

	requests                   *prometheus.CounterVec
	duration                   *prometheus.HistogramVec
	success, failure, notAfter *prometheus.Desc

	mu      sync.Mutex
	targets map[target]lastSeen
}

// newCollector registers the metrics. Each scrape reads the TargetClusters, so the metrics of a
// deleted one disappear.
func newCollector(cfg Config) (*collector, error) {
	gauge := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"kind", "target"}, nil)
	}
	m := &collector{
		cfg: cfg,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyferry_provider_requests_total",
			Help: "Requests to providers for a credential, by access type (provider), issue type and outcome (issued, invalid, rejected, not_found, refused, unavailable, failed).",
		}, []string{"provider", "issue", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keyferry_provider_duration_seconds",
			Help:    "Duration of requests to providers, by access type (provider) and issue type.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15},
		}, []string{"provider", "issue"}),
		success:  gauge("keyferry_target_last_success_timestamp_seconds", "Time at which a credential of the TargetCluster or ClusterProfile (kind) was last issued."),
		failure:  gauge("keyferry_target_last_failure_timestamp_seconds", "Time at which a request for a credential of the TargetCluster or ClusterProfile (kind) last failed."),
		notAfter: gauge("keyferry_target_credential_expiration_timestamp_seconds", "Time at which the newest credential of the TargetCluster or ClusterProfile (kind) expires."),
		targets:  map[target]lastSeen{},
	}
	return m, metrics.Register(cfg.Metrics, m.requests, m.duration, m)
}

func (m *collector) observe(event issuer.Event) {
	provider, issue, outcome := string(event.Provider), string(event.Issue), "issued"
	if event.Err != nil {
		outcome = issuer.FailureOf(event.Err).Outcome
	}
	m.requests.WithLabelValues(provider, issue, outcome).Inc()
	m.duration.WithLabelValues(provider, issue).Observe(event.Took.Seconds())

	of := target{"TargetCluster", event.TargetCluster}
	if event.TargetCluster.Name == "" {
		of = target{"ClusterProfile", event.ClusterProfile}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, exists := m.targets[of]; !exists && len(m.targets) >= maxTargets {
		return
	}
	p := m.targets[of]
	if event.Err != nil {
		p.failure = m.cfg.Now()
	} else {
		p.success = m.cfg.Now()
		if event.NotAfter.After(p.notAfter) {
			p.notAfter = event.NotAfter
		}
	}
	m.targets[of] = p
}

// Describe is for prometheus.Collector.
func (m *collector) Describe(descs chan<- *prometheus.Desc) {
	descs <- m.success
	descs <- m.failure
	descs <- m.notAfter
}

// Collect is for prometheus.Collector.
func (m *collector) Collect(out chan<- prometheus.Metric) {
	m.forget()
	m.mu.Lock()
	defer m.mu.Unlock()
	for of, p := range m.targets {
		for desc, at := range map[*prometheus.Desc]time.Time{m.success: p.success, m.failure: p.failure, m.notAfter: p.notAfter} {
			if !at.IsZero() {
				out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(at.Unix()), of.kind, of.String())
			}
		}
	}
}

// forget removes targets that were deleted, or that no client has requested for a long time: no
// user could fix what an alert on them reports.
func (m *collector) forget() {
	m.mu.Lock()
	known := make([]target, 0, len(m.targets))
	for of := range m.targets {
		known = append(known, of)
	}
	m.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	for _, of := range known {
		gone := of.kind == "TargetCluster" && apierrors.IsNotFound(m.cfg.Client.Get(ctx, of.NamespacedName, &v1alpha1.TargetCluster{}))
		m.mu.Lock()
		p := m.targets[of]
		if last := later(p.success, p.failure); gone || m.cfg.Now().Sub(last) > forgetAfter {
			delete(m.targets, of)
		}
		m.mu.Unlock()
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
