// Package webhook admits Pods that ask for another cluster, and tells users what is wrong with
// those that it does not admit.
//
// It decides only: what becomes of a Pod is injector's affair, and no Secret is read here. Every
// answer is computed from the request, TargetClusters, ClusterProfiles, CredentialRequests, locks
// and SubjectAccessReviews, and nothing is kept or written, so any number of replicas may answer,
// and a forged request changes nothing.
package webhook

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/serving"
)

// The paths that the webhook configurations name.
const (
	// PathPods mutates Pods.
	PathPods = "/mutate-pod"
	// PathWorkloads validates whatever has a Pod template.
	PathWorkloads = "/validate-workload"
)

// GCPercent is the pace of garbage collection (debug.SetGCPercent) in a program that does nothing
// but serve a Handler. So little is kept that at Go's own, 100, an eighth of the time goes into it,
// and what another core is worth with it.
const GCPercent = 400

// Config is what a Handler needs. Every field but Log is required.
type Config struct {
	// Injection is what this installation injects. EnvFromFile, ImageVolume and BrokerAddress are
	// filled for each Pod from the functions below.
	Injection injector.Config

	// Cached and Live read TargetClusters, from a cache and from the API server itself, and Live
	// ClusterProfiles and CredentialRequests, too. Nothing is refused on the word of the cache alone.
	Cached, Live client.Reader

	// MayUse is asked for the Pod's ServiceAccount; NewMayUse makes one.
	MayUse MayUse

	// FindLock returns the lock that denies a Pod a target; locks.NewFind makes one.
	FindLock locks.Find

	// Providers returns the operator's provider file as it is now; nil is one without providers.
	Providers func() *clusterprofile.ProviderFile

	// Policy is the installation's, as broker and controller have it: ClusterProfiles have no status
	// to go by.
	Policy endpoint.Policy

	// EnvFromFile reports whether this cluster knows env from files and the restart of all containers,
	// and ImageVolume whether it knows images as volumes: Probe.Able, or what the operator says.
	EnvFromFile, ImageVolume func() bool

	// BrokerAddress returns the broker's ClusterIP, for Pods whose DNS does not know Services. It is
	// asked only for those.
	BrokerAddress func(context.Context) (string, error)

	// Metrics is where the handler's metrics are registered.
	Metrics prometheus.Registerer

	// Log gets a line for each request that is denied or cannot be answered. The zero value discards.
	Log logr.Logger
}

// Handler answers the API server's admission requests.
type Handler struct {
	Config

	measures  measures
	mux       *http.ServeMux
	scratches sync.Pool
	bodies    *serving.Budget
	// bodyTimeout is the constant, but in tests.
	bodyTimeout time.Duration
}

// New returns a Handler for the paths of this package.
func New(cfg Config) (*Handler, error) {
	switch {
	case cfg.Injection.Image == "":
		return nil, errors.New("webhook: Injection.Image, the refresher's image, is required")
	case cfg.Injection.BrokerURL == "":
		return nil, errors.New("webhook: Injection.BrokerURL is required")
	case cfg.Cached == nil || cfg.Live == nil:
		return nil, errors.New("webhook: Cached and Live are required")
	case cfg.MayUse == nil:
		return nil, errors.New("webhook: MayUse is required")
	case cfg.FindLock == nil:
		return nil, errors.New("webhook: FindLock is required")
	case cfg.Providers == nil:
		return nil, errors.New("webhook: Providers is required")
	case cfg.EnvFromFile == nil || cfg.ImageVolume == nil:
		return nil, errors.New("webhook: EnvFromFile and ImageVolume are required")
	case cfg.BrokerAddress == nil:
		return nil, errors.New("webhook: BrokerAddress is required")
	case cfg.Metrics == nil:
		return nil, errors.New("webhook: Metrics is required")
	}
	measured, err := newMeasures(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	h := &Handler{Config: cfg, measures: measured, mux: http.NewServeMux(), bodies: serving.NewBudget(maxBodies, maxBodiesPerAddress), bodyTimeout: bodyTimeout}
	h.mux.Handle("POST "+PathPods, h.serve("pods", h.reviewPod))
	h.mux.Handle("POST "+PathWorkloads, h.serve("workloads", h.reviewWorkload))
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }
