// Package broker serves credentials to Pods. For each request, it authenticates the Pod by its
// projected token, checks that the Pod's ServiceAccount may use the TargetCluster or ClusterProfile
// and that no lock denies it, issues a credential, and writes an audit line. The protocol is in
// package wire.
package broker

import (
	"context"
	"errors"
	"net/http"
	"path"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/tools/events"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/report"
	"github.com/keyferry/keyferry/providers"
)

// requestTimeout is shorter than the server's write timeout, so that a request that takes too long
// still gets an error message.
const requestTimeout = 25 * time.Second

// Issuer reads TargetClusters and ClusterProfiles and issues credentials. *issuer.Issuer implements
// it.
type Issuer interface {
	TargetCluster(ctx context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error)
	ClusterProfile(ctx context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error)
	IssueFor(ctx context.Context, cluster *v1alpha1.TargetCluster, req providers.Request) (issuer.Issued, error)
	Refused(issued issuer.Issued)
}

// Config configures a Broker. All fields are required unless their comment says otherwise.
type Config struct {
	// Authenticator verifies a token for the audiences in the context. An error means that the
	// verification failed, not that the token is invalid.
	Authenticator authenticator.Token
	// Authorizer authorizes the verb use. An error means that the check failed, not that access is
	// denied.
	Authorizer authorizer.UnconditionalAuthorizer
	// FindLock returns the lock that denies a Pod a target. An error means that the check failed.
	FindLock locks.Find
	Issuer   Issuer

	// Audit gets one line for each issued credential and each rejected request. Log gets the
	// operator's other messages. Zero Loggers discard.
	Audit logr.Logger
	Log   logr.Logger

	Metrics prometheus.Registerer
	// Events records rejected requests as Events on the Pods. Nil records none.
	Events events.EventRecorder
	// Now returns the current time. Nil means time.Now.
	Now func() time.Time
}

// Broker is an http.Handler that serves credentials.
type Broker struct {
	cfg      Config
	measures *measures
	events   *report.Events
	mux      *http.ServeMux

	systemRoots digest

	// questions limits the requests of each Pod, refusals the rejected tokens of each address.
	questions, refusals *shares
}

// New returns a Broker.
func New(cfg Config) (*Broker, error) {
	switch {
	case cfg.Authenticator == nil:
		return nil, errors.New("broker: Config.Authenticator is missing")
	case cfg.Authorizer == nil:
		return nil, errors.New("broker: Config.Authorizer is missing")
	case cfg.FindLock == nil:
		return nil, errors.New("broker: Config.FindLock is missing")
	case cfg.Issuer == nil:
		return nil, errors.New("broker: Config.Issuer is missing")
	case cfg.Metrics == nil:
		return nil, errors.New("broker: Config.Metrics is missing")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	m, err := newMeasures(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	b := &Broker{
		cfg: cfg, measures: m, events: report.NewEvents(cfg.Events), mux: http.NewServeMux(),
		questions: newShares(questionsPerSecond, questionsAtOnce, cfg.Now),
		refusals:  newShares(refusalsPerSecond, refusalsAtOnce, cfg.Now),
	}
	b.handle("/v1/namespaces/{namespace}/targetclusters/{name}/credential", use.TargetCluster)
	b.handle("/v1/namespaces/{namespace}/clusterprofiles/{name}/credential", use.ClusterProfile)
	b.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { noSuchPath().write(w) })
	return b, nil
}

// handle serves credentials for one kind of object at a path.
func (b *Broker) handle(pattern string, kind func(types.NamespacedName) use.Object) {
	b.mux.HandleFunc("POST "+pattern, func(w http.ResponseWriter, r *http.Request) {
		b.serveCredential(w, r, kind(types.NamespacedName{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}))
	})
	b.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", http.MethodPost)
		methodNotAllowed().write(w)
	})
}

// ServeHTTP rejects every path that is not canonical. The mux would redirect some of them, and the
// object in the SubjectAccessReview must be, byte for byte, the object that the credential is
// issued for.
func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.RawPath != "" || r.URL.Path != path.Clean(r.URL.Path) || r.URL.RawQuery != "" {
		noSuchPath().write(w)
		return
	}
	b.mux.ServeHTTP(w, r)
}
