package clientcertificate

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	certmanager "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/providers"
)

const (
	// lookAgain is when a request is read again after its watch failed.
	lookAgain = time.Second
	// removeTimeout bounds the removal of what is of no more use.
	removeTimeout = 5 * time.Second

	// shown is how long a request that was refused is kept, for people to see, before another is made.
	// Who deletes it need not wait.
	shown = 5 * time.Minute
)

// API is cert-manager's, as its typed client has it.
type API interface {
	certmanager.CertificateRequestsGetter
	RESTClient() rest.Interface
}

// Requests are the CertificateRequests of this process that are not decided on, with the keys that
// they are for. They may be used concurrently.
type Requests struct {
	api API
	now func() time.Time

	mu    sync.Mutex
	held  map[string]*request  // by the id of their order
	swept map[string]time.Time // by namespace
}

// NewRequests returns Requests that are made by api; now is the clock, nil is time.Now.
func NewRequests(api API, now func() time.Time) *Requests {
	if now == nil {
		now = time.Now
	}
	return &Requests{api: api, now: now, held: map[string]*request{}, swept: map[string]time.Time{}}
}

// Installed returns an error that wraps providers.ErrNotFound if this cluster has no
// CertificateRequests, and one that wraps ErrUnavailable if that cannot be found out.
func (r *Requests) Installed(ctx context.Context) error {
	err := r.api.RESTClient().Get().AbsPath("/apis", cmapi.SchemeGroupVersion.Group, cmapi.SchemeGroupVersion.Version).Do(ctx).Error()
	if err != nil {
		return failure(err, "looking for cert-manager's API")
	}
	return nil
}

// order is what somebody wants, and will want again if it is not done in time.
type order struct {
	namespace string
	// id is the same if and only if a request for the one is good for the other.
	id      string
	subject subject
	request func(crypto.Signer) (*cmapi.CertificateRequest, error)
}

// request is a CertificateRequest of ours.
type request struct {
	namespace, name string
	uid             types.UID
	key             *ecdsa.PrivateKey

	// asked is when somebody last waited for it.
	asked time.Time
	// until is set if it was refused: nobody makes another before.
	until time.Time
}

func (q *request) String() string { return "CertificateRequest " + q.namespace + "/" + q.name }

// errGone: the request was deleted.
var errGone = errors.New("was deleted before it was approved or denied: the next try creates another request")

// issue has an order carried out: by the request that there is for it, or by another.
func (r *Requests) issue(ctx context.Context, o order) (providers.Credential, error) {
	q, err := r.take(ctx, o)
	if err != nil {
		return providers.Credential{}, err
	}
	q.asked = r.now()
	found, err := r.await(ctx, q)
	if errors.Is(err, errGone) {
		return providers.Credential{}, providers.Unavailable(0, fmt.Errorf("%s %w", q, err))
	}
	if err != nil {
		r.keep(ctx, o, q)
		return providers.Credential{}, err
	}
	switch verdict, why := judge(found); verdict {
	case issued:
		credential, err := accept(found.Status.Certificate, q.key, o.subject, r.now())
		if err == nil {
			r.remove(ctx, q)
			return credential, nil
		}
		return providers.Credential{}, r.refuse(ctx, o, q, fmt.Sprintf("the certificate %v", err))
	case refused:
		return providers.Credential{}, r.refuse(ctx, o, q, why)
	default:
		r.keep(ctx, o, q)
		return providers.Credential{}, providers.Unavailable(0, fmt.Errorf("%s %s", q, why))
	}
}

// refuse keeps what cannot be used, so that people can look at it, and no other is made soon.
func (r *Requests) refuse(ctx context.Context, o order, q *request, why string) error {
	if q.until.IsZero() {
		q.until = r.now().Add(shown)
	}
	r.keep(ctx, o, q)
	return fmt.Errorf("%w: %s: %s: Keyferry creates another request in %s, or when you delete this request",
		providers.ErrRefused, q, why, max(q.until.Sub(r.now()), 0).Round(time.Second))
}

// take returns the request that is held for an order, which nobody else holds from then on, or
// makes one.
func (r *Requests) take(ctx context.Context, o order) (*request, error) {
	r.mu.Lock()
	q := r.held[o.id]
	delete(r.held, o.id)
	r.mu.Unlock()
	if q != nil && (q.until.IsZero() || r.now().Before(q.until)) {
		return q, nil
	}
	if q != nil {
		r.remove(ctx, q)
	}
	return r.create(ctx, o)
}

// keep holds a request for the next who asks. If another is held already this one is of no use.
func (r *Requests) keep(ctx context.Context, o order, q *request) {
	r.mu.Lock()
	_, taken := r.held[o.id]
	if !taken {
		r.held[o.id] = q
	}
	r.mu.Unlock()
	if taken {
		r.remove(ctx, q)
	}
}

func (r *Requests) create(ctx context.Context, o order) (*request, error) {
	r.sweep(ctx, o.namespace)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("%w: making a key: %w", providers.ErrRefused, err)
	}
	wanted, err := o.request(key)
	if err != nil {
		return nil, fmt.Errorf("%w: making a certificate signing request: %w", providers.ErrRefused, err)
	}
	made, err := r.api.CertificateRequests(o.namespace).Create(ctx, wanted, metav1.CreateOptions{})
	if err != nil {
		return nil, failure(err, "creating a CertificateRequest in namespace "+o.namespace)
	}
	return &request{namespace: made.Namespace, name: made.Name, uid: made.UID, key: key}, nil
}

// remove deletes a request, also if ctx has ended.
func (r *Requests) remove(ctx context.Context, q *request) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	r.delete(ctx, q)
}

// delete may fail, which matters to nobody: a later sweep finds the request.
func (r *Requests) delete(ctx context.Context, q *request) {
	_ = r.api.CertificateRequests(q.namespace).Delete(ctx, q.name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &q.uid}})
}

// await returns a request once it is decided on, and as it was last seen when ctx ends.
func (r *Requests) await(ctx context.Context, q *request) (*cmapi.CertificateRequest, error) {
	var last *cmapi.CertificateRequest
	for {
		found, err := r.api.CertificateRequests(q.namespace).Get(ctx, q.name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && found.UID != q.uid:
			return nil, errGone
		case err != nil && last != nil:
			return last, nil
		case err != nil:
			return nil, failure(err, "reading "+q.String())
		}
		if last, err = r.watch(ctx, found); err != nil {
			return nil, err
		}
		if verdict, _ := judge(last); verdict != waiting || !pause(ctx, lookAgain) {
			return last, nil
		}
	}
}

// watch follows a request until it is decided on, or the watch ends, and returns what it saw last.
func (r *Requests) watch(ctx context.Context, last *cmapi.CertificateRequest) (*cmapi.CertificateRequest, error) {
	if verdict, _ := judge(last); verdict != waiting {
		return last, nil
	}
	events, err := r.api.CertificateRequests(last.Namespace).Watch(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector(metav1.ObjectNameField, last.Name).String(),
		ResourceVersion: last.ResourceVersion,
	})
	if err != nil {
		return last, nil //nolint:nilerr // it is read again soon
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		seen, ok := event.Object.(*cmapi.CertificateRequest)
		switch {
		case !ok:
			return last, nil
		case event.Type == watch.Deleted:
			return nil, errGone
		}
		last = seen
		if verdict, _ := judge(last); verdict != waiting {
			return last, nil
		}
	}
	return last, nil
}

// pause reports whether ctx lasts for so long.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
