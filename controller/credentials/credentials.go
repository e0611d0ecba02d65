// Package credentials keeps the Secrets of CredentialRequests.
//
// The Secret is the store: an annotation says where its credential comes from, when it ends and
// when it is replaced, so nothing is issued again after a restart. What is to be done is decided by
// pure functions of the Secret, of what this process remembers of it and of what the credential is
// to come from; while nothing changes, nothing is written.
package credentials

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

const (
	// Until the next look at a request with which all is well: what its TargetCluster takes from a
	// Secret cannot be watched.
	resync = time.Minute
	// Until the next try of what failed: first shorter, then longer.
	firstBackoff = 5 * time.Second
	lastBackoff  = 2 * time.Minute
	// Until the next try at most, while the API server of this cluster fails.
	apiBackoff = 10 * time.Second
	// Until the next try to revoke what could not be.
	revokeAgain = 30 * time.Second
	// Until the next try while the credential in the Secret is about to expire.
	urgently = 3 * time.Second
	// reviewLasts is how long the right to use a target is remembered, for credentials that are not
	// yet due. It is reviewed at each issue.
	reviewLasts = 10 * time.Minute
	// Until what somebody else wrote meanwhile can be read.
	soon = time.Second
)

// Issuer is what is needed of an issuer.Issuer.
type Issuer interface {
	Resolve(ctx context.Context, cluster *v1alpha1.TargetCluster) (issuer.Resolution, error)
	Fresh(ctx context.Context, cluster *v1alpha1.TargetCluster, resolution issuer.Resolution, req providers.Request) (issuer.Issued, error)
}

// Secrets are those that bear the label keyferry.dev/credential-request. secretwatch.Watch has
// them.
type Secrets interface {
	// Of returns those that are the request's to write, by their names.
	Of(ctx context.Context, request *v1alpha1.CredentialRequest) (map[string]*corev1.Secret, error)
}

// Config is what Requests needs.
type Config struct {
	// Client reads CredentialRequests and TargetClusters, from a cache, and writes.
	Client client.Client
	// Reader reads from the API server itself.
	Reader  client.Reader
	Secrets Secrets
	Issuer  Issuer
	// FindLock returns the lock that denies a request its credential.
	FindLock locks.Find

	Events  events.EventRecorder
	Metrics prometheus.Registerer
	// Audit gets a line for each credential that was issued or refused.
	Audit logr.Logger

	// Concurrency is how many requests are looked at at the same time; Timeout the longest that one
	// may take.
	Concurrency int
	Timeout     time.Duration
	// RevocationTimeout is how long it is tried to revoke what is no longer used, and so how long an
	// unreachable target delays the deletion of a request at most.
	RevocationTimeout time.Duration
	// MaxLife, if it is not zero, has credentials replaced as if they lived no longer.
	MaxLife time.Duration

	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Chance is from 0 to 1, again each time; nil is random.
	Chance func() float64
}

// Requests reconciles CredentialRequests.
type Requests struct {
	cfg      Config
	backoff  workqueue.TypedRateLimiter[reconcile.Request]
	measures measures

	mu     sync.Mutex
	memory map[types.NamespacedName]memory
}

// memory is what is known of a request beyond what the API server keeps. Without it everything
// works, with more attempts.
type memory struct {
	uid types.UID
	// version is that of the request after its status was written.
	version string
	// kept is the last credential that was issued or seen in the Secret, and due is when it is to be
	// replaced: unlike its own times, which the Secret keeps, with a monotonic reading, for wall
	// clocks that are set back.
	kept *stored.Credential
	due  time.Time
	// failed is the last attempt to have one issued, if that failed.
	failed *attempt
	// refused is the last one, if the ServiceAccount might not use the target.
	refused *attempt
	// review is what the API server answered last about the ServiceAccount's rights.
	review review
}

// attempt is one that is not made again with the same before a time.
type attempt struct {
	generation    int64
	targetVersion string
	until         time.Time
	issued        finding
	written       finding
}

// New returns Requests, or an error that says what cfg lacks.
func New(cfg Config) (*Requests, error) {
	switch {
	case cfg.Client == nil || cfg.Reader == nil || cfg.Secrets == nil || cfg.Issuer == nil || cfg.FindLock == nil || cfg.Events == nil || cfg.Metrics == nil:
		return nil, errors.New("credentials: Client, Reader, Secrets, Issuer, FindLock, Events and Metrics are required")
	case cfg.Concurrency < 1:
		return nil, errors.New("credentials: Concurrency must be at least 1")
	case cfg.Timeout <= 0 || cfg.RevocationTimeout <= 0:
		return nil, errors.New("credentials: Timeout and RevocationTimeout must be positive")
	case cfg.MaxLife < 0:
		return nil, errors.New("credentials: MaxLife must not be negative")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Chance == nil {
		cfg.Chance = rand.Float64
	}
	m, err := newMeasures(cfg.Metrics)
	return &Requests{
		cfg:      cfg,
		backoff:  workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstBackoff, lastBackoff),
		measures: m,
		memory:   map[types.NamespacedName]memory{},
	}, err
}

// byTarget is the field index of the TargetCluster that a request names, as namespace/name.
const byTarget = "spec.targetCluster"

// SetupWithManager makes r watch CredentialRequests, the TargetClusters that they name, locks and,
// by notify, their Secrets.
func (r *Requests) SetupWithManager(mgr ctrl.Manager, notify func(workqueue.TypedRateLimitingInterface[reconcile.Request]) error) error {
	err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.CredentialRequest{}, byTarget, func(o client.Object) []string {
		request, ok := o.(*v1alpha1.CredentialRequest)
		if !ok {
			return nil
		}
		return []string{request.Spec.TargetCluster.Namespace + "/" + request.Spec.TargetCluster.Name}
	})
	if err != nil {
		return fmt.Errorf("indexing CredentialRequests by their targets: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("credentialrequest").
		For(&v1alpha1.CredentialRequest{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.TargetCluster{}, handler.EnqueueRequestsFromMapFunc(r.naming), builder.WithPredicates(targetChanged())).
		Watches(&v1alpha1.Lock{}, handler.EnqueueRequestsFromMapFunc(r.concerned)).
		Watches(&v1alpha1.ClusterLock{}, handler.EnqueueRequestsFromMapFunc(r.concerned)).
		WatchesRawSource(source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			return notify(queue)
		})).
		WithOptions(ctrlcontroller.Options{
			MaxConcurrentReconciles: r.cfg.Concurrency,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, apiBackoff),
		}).
		Complete(r)
}

// naming returns the requests that name a TargetCluster.
func (r *Requests) naming(ctx context.Context, target client.Object) []reconcile.Request {
	var list v1alpha1.CredentialRequestList
	if err := r.cfg.Client.List(ctx, &list, client.MatchingFields{byTarget: target.GetNamespace() + "/" + target.GetName()}); err != nil {
		log.FromContext(ctx).Error(err, "cannot list the CredentialRequests of a target", "targetCluster", target.GetNamespace()+"/"+target.GetName())
		return nil
	}
	requests := make([]reconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}

// targetChanged passes changes of a TargetCluster's spec, and of the status where it tells that a
// Secret behind it has changed.
func targetChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*v1alpha1.TargetCluster)
		after, ok2 := e.ObjectNew.(*v1alpha1.TargetCluster)
		return ok && ok2 && (before.Generation != after.Generation || before.Status.Endpoint != after.Status.Endpoint ||
			isReady(before.Status.Conditions) != isReady(after.Status.Conditions))
	}}
}

// Reconcile does what is to be done for one request and writes what has changed.
func (r *Requests) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	request := &v1alpha1.CredentialRequest{}
	if err := r.cfg.Client.Get(ctx, req.NamespacedName, request); apierrors.IsNotFound(err) {
		r.forget(req)
		return reconcile.Result{}, nil
	} else if err != nil {
		return reconcile.Result{}, err
	}
	if older, err := resourceversion.CompareResourceVersion(request.ResourceVersion, r.remembered(request).version); err == nil && older < 0 {
		return reconcile.Result{RequeueAfter: soon}, nil // the cache does not have yet what was written last
	}
	if request.Status.ObservedGeneration != request.Generation {
		r.backoff.Forget(req) // the user who changed it is waiting
	}
	working, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	var after v1alpha1.CredentialRequestStatus
	var next time.Duration
	var err error
	if request.DeletionTimestamp.IsZero() {
		after, next, err = r.keep(working, request)
	} else {
		after, next, err = r.release(working, request)
	}
	switch {
	case errors.Is(err, errMeanwhile) || apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: soon}, nil
	case err != nil:
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	before := request.Status
	if err := r.write(ctx, request, after); apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: soon}, nil
	} else if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	r.tell(ctx, request, before, after)
	return reconcile.Result{RequeueAfter: max(next, soon)}, nil
}

// errMeanwhile says that somebody else wrote what was about to be written.
var errMeanwhile = errors.New("somebody else wrote it meanwhile")

// write writes the status if it changed, to the very version that it was made from.
func (r *Requests) write(ctx context.Context, request *v1alpha1.CredentialRequest, after v1alpha1.CredentialRequestStatus) error {
	if equality.Semantic.DeepEqual(request.Status, after) {
		return nil
	}
	request.Status = after
	if err := r.cfg.Client.Status().Update(ctx, request); err != nil {
		return err
	}
	m := r.remembered(request)
	m.version = request.ResourceVersion
	r.remember(request, m)
	return nil
}

// nextTry is when to look again at what failed, while the Secret holds this credential; nil is
// none.
func (r *Requests) nextTry(request *v1alpha1.CredentialRequest, held *stored.Credential, err error) time.Duration {
	key := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(request)}
	wait := max(r.backoff.When(key), min(providers.RetryAfter(err), lastBackoff))
	if held == nil {
		return wait
	}
	return expiry.RetryWait(wait, held.NotAfter.Sub(r.cfg.Now()), urgently)
}

// nextLook is when to look again at what is well: before its credential is due.
func (r *Requests) nextLook(request *v1alpha1.CredentialRequest, h *stored.Credential) time.Duration {
	r.backoff.Forget(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(request)})
	return min(wait.Jitter(resync, 0.2), h.RenewAt.Sub(r.cfg.Now()))
}

func (r *Requests) remembered(request *v1alpha1.CredentialRequest) memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.memory[client.ObjectKeyFromObject(request)]
	if m.uid != request.UID {
		return memory{uid: request.UID}
	}
	return m
}

func (r *Requests) remember(request *v1alpha1.CredentialRequest, m memory) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.uid = request.UID
	r.memory[client.ObjectKeyFromObject(request)] = m
}

// keepInMind is for when somebody edits or deletes the Secret.
func (r *Requests) keepInMind(request *v1alpha1.CredentialRequest, h *stored.Credential) {
	m := r.remembered(request)
	if m.kept == nil || !m.kept.IssuedAt.Equal(h.IssuedAt) {
		now := r.cfg.Now()
		m.due = now.Add(h.RenewAt.Sub(now))
	}
	m.kept = h
	r.remember(request, m)
}

func (r *Requests) forget(req reconcile.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.memory, req.NamespacedName)
	r.backoff.Forget(req)
	r.measures.forget(req.NamespacedName)
}
