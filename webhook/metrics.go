package webhook

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyferry/keyferry/internal/metrics"
)

// measures are the metrics of the handler.
type measures struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMeasures(registerer prometheus.Registerer) (measures, error) {
	m := measures{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyferry_admission_requests_total",
			Help: "Admission requests by webhook (pods, workloads), outcome (allowed, denied, failed) and reason.",
		}, []string{"webhook", "outcome", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keyferry_admission_duration_seconds",
			Help:    "Duration of admission requests, by webhook (pods, workloads).",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"webhook"}),
	}
	return m, metrics.Register(registerer, m.requests, m.duration)
}
