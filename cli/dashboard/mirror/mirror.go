// Package mirror keeps the objects that the dashboard shows, as far as the user may read them. It
// lists each kind once, and then watches it.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// Mirror is a client.Reader of the objects that it keeps. Callers must not change the objects that
// it returns.
type Mirror struct {
	client    client.WithWatch
	namespace string
	now       func() time.Time
	kinds     []*kind

	mu      sync.Mutex
	changed chan struct{}
}

// Config says what to keep.
type Config struct {
	// Client reads with the rights of the user.
	Client client.WithWatch
	// Namespace is the namespace to watch if the user may not list a kind in all namespaces.
	Namespace string
	// Now returns the time. The default is time.Now.
	Now func() time.Time
}

// State describes what the Mirror has of one kind.
type State struct {
	// Kind is the plural for people, such as "Pods".
	Kind string
	// Namespace is the only namespace that is watched; empty for all.
	Namespace string
	// Denied is why the user may not list the kind; nil if the user may.
	Denied error
	// Lost is why there is no connection; nil if there is one. LostSince is the time of the first
	// failure.
	Lost      error
	LostSince time.Time
}

// New returns a Mirror without objects: Run fills it.
func New(cfg Config) (*Mirror, error) {
	if cfg.Client == nil {
		return nil, errors.New("mirror: Client is nil")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	m := &Mirror{client: cfg.Client, namespace: cfg.Namespace, now: cfg.Now, changed: make(chan struct{})}
	for _, d := range kinds() {
		gvk, err := apiutil.GVKForObject(d.object, cfg.Client.Scheme())
		if err != nil {
			return nil, err
		}
		m.kinds = append(m.kinds, newKind(m, d, gvk))
	}
	return m, nil
}

// Run keeps the objects current until ctx ends.
func (m *Mirror) Run(ctx context.Context) {
	ctx = logr.NewContext(ctx, logr.Discard()) // the page shows what the watches would log
	var all sync.WaitGroup
	for _, k := range m.kinds {
		all.Go(func() { k.run(ctx) })
	}
	all.Wait()
}

// Listed waits until each kind was listed once, or denied. The error is that of an API server which
// cannot be reached, or of ctx.
func (m *Mirror) Listed(ctx context.Context) error {
	for {
		next := m.Changed()
		missing := ""
		for _, k := range m.kinds {
			state, isListed := k.state()
			if !isListed && state.Lost != nil {
				return fmt.Errorf("reading %s: %w", state.Kind, state.Lost)
			}
			if !isListed && state.Denied == nil {
				missing = state.Kind
			}
		}
		if missing == "" {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("reading %s: %w", missing, ctx.Err())
		}
	}
}

// Changed returns a channel that is closed at the next change.
func (m *Mirror) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *Mirror) notify() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// States returns the State of each kind.
func (m *Mirror) States() []State {
	states := make([]State, len(m.kinds))
	for i, k := range m.kinds {
		states[i], _ = k.state()
	}
	return states
}

// Get implements client.Reader.
func (m *Mirror) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	k, err := m.kindOf(into, "")
	if err != nil {
		return err
	}
	found, err := k.get(key)
	if err != nil {
		return err
	}
	return copyInto(into, found)
}

// List implements client.Reader for the options Namespace and LabelSelector. It ignores Limit.
func (m *Mirror) List(_ context.Context, into client.ObjectList, options ...client.ListOption) error {
	k, err := m.kindOf(into, "List")
	if err != nil {
		return err
	}
	with := (&client.ListOptions{}).ApplyOptions(options)
	found, err := k.list(with.Namespace, func(o client.Object) bool {
		return with.LabelSelector == nil || with.LabelSelector.Matches(labelsOf(o))
	})
	if err != nil {
		return err
	}
	return meta.SetList(into, found)
}

// kindOf returns the kind of an object, or of a list.
func (m *Mirror) kindOf(object runtime.Object, suffix string) (*kind, error) {
	gvk, err := apiutil.GVKForObject(object, m.client.Scheme())
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(m.kinds, func(k *kind) bool {
		return k.gvk.GroupVersion() == gvk.GroupVersion() && k.gvk.Kind+suffix == gvk.Kind
	})
	if i < 0 {
		return nil, fmt.Errorf("the dashboard does not watch %s", gvk.Kind)
	}
	return m.kinds[i], nil
}

// isDenied reports whether an error is about rights.
func isDenied(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }
