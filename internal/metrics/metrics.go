// Package metrics has the metrics that every server program of Keyferry has.
//
// Names, units and labels follow Prometheus' conventions. No label has a Pod's name or text that a
// user chose freely, and none is called as one that a scrape adds (namespace, pod, service,
// cluster): an object is one value, namespace/name.
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

// Register registers all of them, or says which metric it was that could not be.
func Register(registerer prometheus.Registerer, collectors ...prometheus.Collector) error {
	for _, collector := range collectors {
		if err := registerer.Register(collector); err != nil {
			return fmt.Errorf("registering a metric: %w", err)
		}
	}
	return nil
}

// OfProgram registers the metrics of a program as a whole, which is a component by this name, and
// has the reviews counted that are asked for with cfg, and with what is made of it.
func OfProgram(registerer prometheus.Registerer, component string, cfg *rest.Config) error {
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "keyferry_build_info",
		Help:        "1, with the component and the versions of the program and of Go.",
		ConstLabels: prometheus.Labels{"component": component, "version": version.String(), "goversion": runtime.Version()},
	}, func() float64 { return 1 })
	reviews := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keyferry_reviews_total",
		Help: "Reviews by the API server, by resource (tokenreviews, subjectaccessreviews) and HTTP status code (0: no answer).",
	}, []string{"resource", "code"})
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return reviewCounter{next: next, counter: reviews} })
	return Register(registerer, build, reviews)
}

// reviewCounter counts what was really asked, behind all caches.
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
