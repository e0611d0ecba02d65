// Package report reports requests to providers: in the condition Issuing of TargetClusters, in
// metrics, and in Events of Pods that receive no credential. Broker and controller use it.
package report

import (
	"context"
	"errors"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/issuer"
)

// Config of a Reporter. Every field is required, unless it says otherwise.
type Config struct {
	// Client reads TargetClusters, which may be from a cache, and writes their status.
	Client client.Client
	// FieldManager is the program that writes. It owns the condition Issuing and no other field of
	// the status: with server-side apply, the next write would remove the other fields.
	FieldManager string
	// Interval is the shortest time between two writes of a condition.
	Interval time.Duration
	Metrics  prometheus.Registerer
	// Log gets each failed request; the zero Logger discards.
	Log logr.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Reporter reports the Events of an issuer.Issuer.
type Reporter struct {
	conditions *conditions
	collector  *collector
}

// New registers the metrics and returns a Reporter, or an error that names what cfg lacks.
func New(cfg Config) (*Reporter, error) {
	if cfg.Client == nil || cfg.FieldManager == "" || cfg.Interval <= 0 || cfg.Metrics == nil {
		return nil, errors.New("report: Client, FieldManager, Interval and Metrics are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	collector, err := newCollector(cfg)
	if err != nil {
		return nil, err
	}
	return &Reporter{conditions: &conditions{cfg: cfg, pending: map[types.NamespacedName]metav1.Condition{}}, collector: collector}, nil
}

// Observe is for issuer.Config; it does not block.
func (r *Reporter) Observe(event issuer.Event) {
	r.conditions.observe(event)
	r.collector.observe(event)
}

// NeedLeaderElection is false: each replica reports its own requests.
func (r *Reporter) NeedLeaderElection() bool { return false }

// Start writes conditions until ctx ends.
func (r *Reporter) Start(ctx context.Context) error {
	r.conditions.run(ctx)
	return nil
}
