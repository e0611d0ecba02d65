// Package secretwatch knows the Secrets of CredentialRequests, in the namespaces where those are
// kept.
package secretwatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	informers "k8s.io/client-go/informers/core/v1" // a factory would link the informers of all kinds
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
)

// Reasons why Secrets cannot be had, to be found with errors.Is.
var (
	ErrNotListed = errors.New("the namespace is not in credentialRequests.namespaces")
	ErrForbidden = errors.New("the controller lacks the permission to list and watch Secrets in the namespace")
	ErrSyncing   = errors.New("the controller has not read the Secrets of the namespace yet")
)

// byRequest indexes Secrets by the names of the requests that they may be of.
const byRequest = "request"

// A Watch holds the Secrets of some namespaces that bear the label keyferry.dev/credential-request,
// and no others, and keeps them current. Unlike a manager's cache it waits for nobody: a namespace
// that is gone, or that the controller has no rights in, keeps no other from being served.
type Watch struct {
	namespaces map[string]*secretInformer
}

type secretInformer struct {
	cache.SharedIndexInformer
	forbidden atomic.Bool
}

// New returns a Watch of these namespaces, which does nothing before Start.
func New(api kubernetes.Interface, namespaces []string) (*Watch, error) {
	w := &Watch{namespaces: map[string]*secretInformer{}}
	for _, namespace := range namespaces {
		informer := &secretInformer{SharedIndexInformer: informers.NewFilteredSecretInformer(api, namespace, 0,
			cache.Indexers{byRequest: indexByRequest},
			func(o *metav1.ListOptions) { o.LabelSelector = v1alpha1.LabelCredentialRequest })}
		err := errors.Join(
			informer.SetTransform(stripManagedFields),
			informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
				informer.forbidden.Store(apierrors.IsForbidden(err))
				cache.DefaultWatchErrorHandler(ctx, r, err)
			}))
		if err != nil {
			return nil, fmt.Errorf("watching Secrets of namespace %s: %w", namespace, err)
		}
		w.namespaces[namespace] = informer
	}
	return w, nil
}

func indexByRequest(o any) ([]string, error) {
	secret, _ := o.(*corev1.Secret)
	return requestsOf(secret), nil
}

func stripManagedFields(o any) (any, error) {
	if object, ok := o.(metav1.Object); ok {
		object.SetManagedFields(nil)
	}
	return o, nil
}

// Start watches until ctx ends.
func (w *Watch) Start(ctx context.Context) error {
	var all sync.WaitGroup
	for _, informer := range w.namespaces {
		all.Go(func() { informer.RunWithContext(ctx) })
	}
	all.Wait()
	return nil
}

// NeedLeaderElection is true: only the one that writes Secrets needs to know them.
func (w *Watch) NeedLeaderElection() bool { return true }

// Notify has the requests that a Secret is of queued when it changes.
func (w *Watch) Notify(queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	add := func(o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		if secret, ok := o.(*corev1.Secret); ok {
			for _, name := range requestsOf(secret) {
				queue.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: secret.Namespace, Name: name}})
			}
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: add,
		UpdateFunc: func(before, after any) {
			add(before)
			add(after)
		},
		DeleteFunc: add,
	}
	for namespace, informer := range w.namespaces {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("watching Secrets of namespace %s: %w", namespace, err)
		}
	}
	return nil
}

// requestsOf returns the names of the requests that a Secret may be of: by its label, and by who
// controls it.
func requestsOf(secret *corev1.Secret) []string {
	names := []string{secret.Labels[v1alpha1.LabelCredentialRequest]}
	if c := metav1.GetControllerOf(secret); c != nil && c.Kind == "CredentialRequest" {
		names = append(names, c.Name)
	}
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
}

// Of returns the labelled Secrets of a request's namespace that are the request's to write, by
// their names. They must not be changed.
func (w *Watch) Of(_ context.Context, request *v1alpha1.CredentialRequest) (map[string]*corev1.Secret, error) {
	informer, ok := w.namespaces[request.Namespace]
	switch {
	case !ok:
		return nil, ErrNotListed
	case !informer.HasSynced() && informer.forbidden.Load():
		return nil, ErrForbidden
	case !informer.HasSynced():
		return nil, ErrSyncing
	}
	found := map[string]*corev1.Secret{}
	objects, err := informer.GetIndexer().ByIndex(byRequest, request.Name)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if secret, ok := o.(*corev1.Secret); ok && stored.Mine(secret, request) {
			found[secret.Name] = secret
		}
	}
	return found, nil
}
