package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// askAgain is the time after which a denied kind is tried again: rights may be granted.
const askAgain = 10 * time.Second

// kind keeps the objects of one kind. It is the store of a cache.Reflector, and observes its
// requests.
type kind struct {
	definition
	mirror *Mirror
	gvk    schema.GroupVersionKind

	mu        sync.RWMutex
	objects   map[client.ObjectKey]client.Object
	namespace string // that is watched; empty for all
	isListed  bool
	denied    error
	lost      error
	lostSince time.Time
}

func newKind(m *Mirror, d definition, gvk schema.GroupVersionKind) *kind {
	return &kind{definition: d, mirror: m, gvk: gvk, objects: map[client.ObjectKey]client.Object{}}
}

func (k *kind) state() (s State, isListed bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return State{Kind: k.plural, Namespace: k.namespace, Denied: k.denied, Lost: k.lost, LostSince: k.lostSince}, k.isListed
}

// update changes the kind, and notifies those who wait for changes.
func (k *kind) update(change func()) {
	k.mu.Lock()
	change()
	k.mu.Unlock()
	k.mirror.notify()
}

// run watches the kind until ctx ends: in all namespaces, or in one if the user has no right for
// all.
func (k *kind) run(ctx context.Context) {
	for ctx.Err() == nil {
		namespace, err := k.scope(ctx)
		if err == nil {
			k.update(func() { k.namespace, k.denied = namespace, nil })
			k.reflect(ctx)
			return
		}
		if isDenied(err) {
			k.update(func() { k.denied = err })
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
		}
	}
}

// scope returns the namespace in which the user may list the kind, which is empty for all of them.
func (k *kind) scope(ctx context.Context) (string, error) {
	err := k.try(ctx, metav1.NamespaceAll)
	if isDenied(err) && !k.global && k.mirror.namespace != "" {
		if k.try(ctx, k.mirror.namespace) == nil {
			return k.mirror.namespace, nil
		}
	}
	return metav1.NamespaceAll, err
}

func (k *kind) try(ctx context.Context, namespace string) error {
	err := k.mirror.client.List(ctx, k.newList(), client.InNamespace(namespace), client.Limit(1))
	if !isDenied(err) {
		k.observe(ctx, err)
	}
	return err
}

// observe notes whether a request has reached the API server.
func (k *kind) observe(ctx context.Context, err error) {
	if ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsInvalid(err) {
		return // a list or watch that begins again
	}
	was, _ := k.state()
	if err == nil && was.Lost == nil {
		return
	}
	k.update(func() {
		if err != nil && k.lost == nil {
			k.lostSince = k.mirror.now()
		}
		k.lost = err
	})
}

// reflect lists and watches the kind until ctx ends.
func (k *kind) reflect(ctx context.Context) {
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list := k.newList()
			err := k.mirror.client.List(ctx, list, client.InNamespace(k.namespace), &client.ListOptions{Raw: &options})
			k.observe(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			changes, err := k.mirror.client.Watch(ctx, k.newList(), client.InNamespace(k.namespace), &client.ListOptions{Raw: &options})
			k.observe(ctx, err)
			return changes, err
		},
	}
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(source, k.mirror.client), k.object, k, cache.ReflectorOptions{
		Backoff: &wait.Backoff{Duration: 250 * time.Millisecond, Factor: 1.6, Jitter: 0.2, Steps: 20, Cap: 5 * time.Second},
	}).RunWithContext(ctx)
}

// Transformer implements cache.TransformingStore: objects are trimmed one by one as they arrive.
func (k *kind) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		full, ok := object.(client.Object)
		if !ok {
			return nil, fmt.Errorf("unexpected %T", object)
		}
		if trimmed := k.trim(full); trimmed != nil {
			return trimmed, nil
		}
		return &notShown{ObjectMeta: metav1.ObjectMeta{Namespace: full.GetNamespace(), Name: full.GetName()}}, nil
	}
}

// notShown is in place of an object that no page shows: the reflector needs its name.
type notShown = metav1.PartialObjectMetadata

// Add implements cache.ReflectorStore.
func (k *kind) Add(object any) error { return k.Update(object) }

// Update implements cache.ReflectorStore.
func (k *kind) Update(object any) error {
	o, err := k.trimmed(object)
	if err != nil {
		return err
	}
	key := client.ObjectKeyFromObject(o)
	if !isShown(o) {
		k.remove(key)
		return nil
	}
	k.update(func() { k.objects[key] = o })
	return nil
}

// Delete implements cache.ReflectorStore.
func (k *kind) Delete(object any) error {
	o, ok := object.(client.Object)
	if !ok {
		return fmt.Errorf("unexpected %T", object)
	}
	k.remove(client.ObjectKeyFromObject(o))
	return nil
}

// remove is not a change if the object is not kept: a cluster has many Pods that use no target.
func (k *kind) remove(key client.ObjectKey) {
	k.mu.RLock()
	_, isKept := k.objects[key]
	k.mu.RUnlock()
	if isKept {
		k.update(func() { delete(k.objects, key) })
	}
}

// Replace implements cache.ReflectorStore.
func (k *kind) Replace(list []any, _ string) error {
	objects := make(map[client.ObjectKey]client.Object, len(list))
	for _, object := range list {
		o, err := k.trimmed(object)
		if err != nil {
			return err
		}
		if isShown(o) {
			objects[client.ObjectKeyFromObject(o)] = o
		}
	}
	k.update(func() { k.objects, k.isListed = objects, true })
	return nil
}

// Resync implements cache.ReflectorStore.
func (k *kind) Resync() error { return nil }

// trimmed is for objects that are not transformed yet.
func (k *kind) trimmed(object any) (client.Object, error) {
	if o, ok := object.(*notShown); ok {
		return o, nil
	}
	result, err := k.Transformer()(object)
	if err != nil {
		return nil, err
	}
	o, ok := result.(client.Object)
	if !ok {
		return nil, errors.New("no object")
	}
	return o, nil
}

func isShown(o client.Object) bool {
	_, is := o.(*notShown)
	return !is
}

func (k *kind) get(key client.ObjectKey) (client.Object, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if found, ok := k.objects[key]; ok {
		return found, nil
	}
	if k.denied != nil {
		return nil, k.denied
	}
	resource := schema.GroupResource{Group: k.gvk.Group, Resource: k.gvk.Kind}
	if k.namespace != "" && key.Namespace != k.namespace {
		return nil, apierrors.NewForbidden(resource, key.Name, fmt.Errorf("you may list %s only in namespace %s", k.plural, k.namespace))
	}
	return nil, apierrors.NewNotFound(resource, key.Name)
}

func (k *kind) list(namespace string, matches func(client.Object) bool) ([]runtime.Object, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.denied != nil {
		return nil, k.denied
	}
	found := make([]runtime.Object, 0, len(k.objects))
	for _, key := range slices.SortedFunc(maps.Keys(k.objects), compareKeys) {
		if o := k.objects[key]; (namespace == "" || key.Namespace == namespace) && matches(o) {
			found = append(found, o)
		}
	}
	return found, nil
}

func compareKeys(a, b client.ObjectKey) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func labelsOf(o client.Object) labels.Set { return o.GetLabels() }

// copyInto copies what an object consists of, and not what it points to.
func copyInto(into, from client.Object) error {
	target, source := reflect.ValueOf(into), reflect.ValueOf(from)
	if target.Type() != source.Type() {
		return fmt.Errorf("%T is not %T", into, from)
	}
	target.Elem().Set(source.Elem())
	return nil
}
