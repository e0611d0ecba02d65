// Package webhook admits Pods that request another cluster, and returns a message with the fix for
// those that it denies.
//
// It computes every response from the request, TargetClusters, ClusterProfiles, CredentialRequests,
// locks and SubjectAccessReviews. It reads no Secrets and writes nothing, so any number of replicas
// can run, and a forged request changes nothing. Package injector computes the changes to a Pod.
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

// The paths of the webhook configurations.
const (
	// PathPods mutates Pods.
	PathPods = "/mutate-pod"
	// PathWorkloads validates all objects with a Pod template.
	PathWorkloads = "/validate-workload"
)

// GCPercent is the value for debug.SetGCPercent in a program that only serves a Handler. The
// handler keeps little memory: with Go's default of 100, garbage collection takes an eighth of the
// time.
const GCPercent = 400

// Config configures a Handler. All fields but Log are required.
type Config struct {
	// Injection is the configuration of the injector. The handler sets EnvFromFile, ImageVolume and
	// BrokerAddress for each Pod with the functions below.
	Injection injector.Config

	// Cached reads TargetClusters and MutatingWebhookConfigurations from a cache. Live reads
	// TargetClusters, ClusterProfiles and CredentialRequests from the API server. A Pod is never
	// denied because of the cache alone.
	Cached, Live client.Reader

	// MayUse checks the Pod's ServiceAccount; see NewMayUse.
	MayUse MayUse

	// FindLock returns the lock that denies a Pod a target; see locks.NewFind.
	FindLock locks.Find

	// Providers returns the operator's current provider file; nil if there is none.
	Providers func() *clusterprofile.ProviderFile

	// Policy is the same as that of the broker and the controller. It applies to ClusterProfiles,
	// which have no status with a result.
	Policy endpoint.Policy

	// EnvFromFile and ImageVolume report whether the cluster supports these features: Probe.Able, or
	// the operator's flag.
	EnvFromFile, ImageVolume func() bool

	// BrokerAddress returns the broker's ClusterIP. It is called only for Pods whose DNS does not
	// resolve Services.
	BrokerAddress func(context.Context) (string, error)

	// Metrics registers the handler's metrics.
	Metrics prometheus.Registerer

	// Log gets a line for each request that is denied or fails. The zero value discards.
	Log logr.Logger
}

// Handler serves the API server's admission requests.
type Handler struct {
	Config

	measures  measures
	mux       *http.ServeMux
	scratches sync.Pool
	memory    *serving.Budget
	// bodyTimeout is the constant bodyTimeout, except in tests.
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
	h := &Handler{Config: cfg, measures: measured, mux: http.NewServeMux(), memory: serving.NewBudget(maxMemory, maxMemoryPerAddress), bodyTimeout: bodyTimeout}
	h.mux.Handle("POST "+PathPods, h.serve("pods", h.reviewPod))
	h.mux.Handle("POST "+PathWorkloads, h.serve("workloads", h.reviewWorkload))
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }
