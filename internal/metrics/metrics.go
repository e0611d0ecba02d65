// Package metrics registers the metrics that all server programs of Keyferry have.
//
// Names, units and labels follow the conventions of Prometheus. No label has a Pod's name or
// arbitrary text of users, and no label has a name that a scrape adds (namespace, pod, service,
// cluster). The value for an object is namespace/name.
package metrics

import (
	"fmt"
	"net/http"
	"path"
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/internal/version"
)

// Register registers collectors. An error names the metric that failed.
func Register(registerer prometheus.Registerer, collectors ...prometheus.Collector) error {
	for _, collector := range collectors {
		if err := registerer.Register(collector); err != nil {
			return fmt.Errorf("registering a metric: %w", err)
		}
	}
	return nil
}

// OfProgram registers the metrics that a program has once; component is its name. It also makes
// clients with cfg, or with a copy of it, count their review requests.
func OfProgram(registerer prometheus.Registerer, component string, cfg *rest.Config) error {
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "keyferry_build_info",
		Help:        "Constant 1, labeled by the component, the version of the program, and the version of Go.",
		ConstLabels: prometheus.Labels{"component": component, "version": version.String(), "goversion": runtime.Version()},
	}, func() float64 { return 1 })
	reviews := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keyferry_reviews_total",
		Help: "TokenReviews and SubjectAccessReviews sent to the API server, by resource and HTTP status code (0: no answer).",
	}, []string{"resource", "code"})
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return reviewCounter{next: next, counter: reviews} })
	return Register(registerer, build, reviews)
}

// reviewCounter counts requests to the API server, not cached results.
type reviewCounter struct {
	next    http.RoundTripper
	counter *prometheus.CounterVec
}

func (c reviewCounter) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r)
	switch resource := path.Base(r.URL.Path); resource {
	case "tokenreviews", "subjectaccessreviews":
		code := 0
		if response != nil {
			code = response.StatusCode
		}
		c.counter.WithLabelValues(resource, strconv.Itoa(code)).Inc()
	}
	return response, err
}
