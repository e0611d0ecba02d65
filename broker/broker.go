// Package broker is the credential service. It authenticates a Pod by its projected token, asks
// whether the Pod's ServiceAccount may use a TargetCluster or a ClusterProfile, and whether a lock
// denies that, has a credential issued, answers in the protocol of package wire, and audits.
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

// requestTimeout is less than the server's WriteTimeout, so that whoever asked still gets a
// sentence.
const requestTimeout = 25 * time.Second

// Issuer finds what to issue from, and issues; an *issuer.Issuer.
type Issuer interface {
	TargetCluster(ctx context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error)
	ClusterProfile(ctx context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error)
	IssueFor(ctx context.Context, cluster *v1alpha1.TargetCluster, req providers.Request) (issuer.Issued, error)
	Refused(issued issuer.Issued)
}

// Config of a Broker. Every field is required, unless it says otherwise.
type Config struct {
	// Authenticator verifies a token for the audiences in the context. An error means that it could
	// not tell.
	Authenticator authenticator.Token
	// Authorizer decides on the verb use. An error means that it could not tell.
	Authorizer authorizer.UnconditionalAuthorizer
	// FindLock returns the lock that denies a Pod a target. An error means that it could not tell.
	FindLock locks.Find
	Issuer   Issuer

	// Audit gets one line for each issue and each refusal. Log gets what operators need besides. Zero
	// Loggers discard.
	Audit logr.Logger
	Log   logr.Logger

	Metrics prometheus.Registerer
	// Events tells Pods of what they are refused; nil tells nobody.
	Events events.EventRecorder
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Broker answers requests for credentials; an http.Handler.
type Broker struct {
	cfg      Config
	measures *measures
	events   *report.Events
	mux      *http.ServeMux

	systemRoots digest

	// questions are counted by Pod, refusals by address.
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

// handle serves credentials of one kind of object at a path.
func (b *Broker) handle(pattern string, kind func(types.NamespacedName) use.Object) {
	b.mux.HandleFunc("POST "+pattern, func(w http.ResponseWriter, r *http.Request) {
		b.serveCredential(w, r, kind(types.NamespacedName{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}))
	})
	b.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", http.MethodPost)
		methodNotAllowed().write(w)
	})
}

// ServeHTTP refuses every path that is not in its one clean form. The mux would redirect some of
// them, and what is asked about in a SubjectAccessReview must be, byte for byte, what is then
// issued.
func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.RawPath != "" || r.URL.Path != path.Clean(r.URL.Path) || r.URL.RawQuery != "" {
		noSuchPath().write(w)
		return
	}
	b.mux.ServeHTTP(w, r)
}
