package exec

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keyferry/keyferry/providers"
)

const (
	// promptly is how long a plugin may keep a prompt slot while others wait for the slot.
	promptly = time.Second
	// hangs is a duration after which a plugin is considered to hang. It is less than its timeout.
	hangs = 10 * time.Second
	// remembered is how long a target's last plugin matters.
	remembered = 24 * time.Hour

	promptSlots, slowSlots, hangingSlots = 8, 8, 4
)

// Slots limits how many plugins run at the same time, so that plugins that hang do not delay those
// of other targets. There are three lanes, and a target's last plugin decides which one its next
// plugin uses:
//
//   - prompt, if the plugin ended within a second, or there was none;
//   - slow, if it took longer;
//   - hanging, if it did not end.
//
// At most half of a lane's slots are for targets of one namespace, and a quarter for one target. If
// a plugin in the prompt lane does not end within a second, it moves to the slow lane. If that is
// full, and others wait for the slot, the plugin is stopped, and starts again in the slow lane.
// Among plugins that wait, those of the namespaces with the fewest running plugins are first, and
// of these the plugins of targets that are known to be prompt.
type Slots struct {
	mu                    sync.Mutex
	prompt, slow, hanging lane
	past                  map[string]past // by namespace/name of the target
}

// past is the lane for a target according to its last plugin, and when that ended.
type past struct {
	lane *lane
	at   time.Time
}

// NewSlots returns Slots of which none is taken.
func NewSlots() *Slots {
	return &Slots{prompt: lane{slots: promptSlots}, slow: lane{slots: slowSlots}, hanging: lane{slots: hangingSlots}, past: map[string]past{}}
}

// errOverdue is the cause for which a plugin is stopped that keeps others waiting.
var errOverdue = errors.New("the plugin runs for longer than a second, and other plugins wait")

// Do runs a plugin of a target once a slot is free, and returns the plugin's error. It may run the
// plugin a second time. If ctx ends before there is a slot, the error is providers.ErrUnavailable.
func (s *Slots) Do(ctx context.Context, namespace, target string, plugin func(context.Context) error) error {
	for {
		r := &run{namespace: namespace, target: target, granted: make(chan struct{})}
		if err := s.take(ctx, r); err != nil {
			return err
		}
		if err := s.run(ctx, r, plugin); !errors.Is(err, errOverdue) {
			return err
		}
	}
}

// take waits for a slot.
func (s *Slots) take(ctx context.Context, r *run) error {
	s.mu.Lock()
	last, known := s.past[r.key()]
	if r.lane = last.lane; !known {
		r.lane = &s.prompt
	}
	r.known = known
	r.lane.waiting = append(r.lane.waiting, r)
	r.lane.schedule()
	s.mu.Unlock()
	select {
	case <-r.granted:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		r.lane.remove(r)
		return providers.Unavailable(0, fmt.Errorf("waiting until other plugins have ended: %w", ctx.Err()))
	}
}

// run runs a plugin that has a slot. The error is errOverdue if the plugin was stopped for others.
func (s *Slots) run(ctx context.Context, r *run, plugin func(context.Context) error) error {
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s.mu.Lock()
	r.stop = stop
	s.mu.Unlock()
	overdue := time.AfterFunc(promptly, func() { s.overdue(r) })
	defer overdue.Stop()
	begun := time.Now()
	err := plugin(running)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.remember(r, time.Since(begun), ctx.Err() != nil)
	r.lane.remove(r)
	if err != nil && errors.Is(context.Cause(running), errOverdue) {
		return errOverdue
	}
	return err
}

// overdue moves a plugin to the slow lane, or lets others take its slot.
func (s *Slots) overdue(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.prompt.running, r) {
		return
	}
	if !s.slow.fits(r) {
		r.overdue = true
		s.prompt.schedule()
		return
	}
	r.lane = &s.slow
	s.slow.running = append(s.slow.running, r)
	s.prompt.remove(r)
}

// remember keeps the lane for the next plugin of the target. ended is set if the caller does
// not wait for the plugin any more.
func (s *Slots) remember(r *run, took time.Duration, ended bool) {
	now := time.Now()
	maps.DeleteFunc(s.past, func(_ string, last past) bool { return now.Sub(last.at) > remembered })
	next := &s.slow
	switch {
	case took < promptly:
		next = &s.prompt
	case took >= hangs || ended:
		next = &s.hanging
	}
	s.past[r.key()] = past{next, now}
}

// run is a plugin that runs, or waits for a slot. The mutex of Slots guards its fields.
type run struct {
	namespace, target string
	lane              *lane
	known             bool          // whether its target had a plugin before, and so its lane is known
	granted           chan struct{} // closed when it has a slot
	stop              context.CancelCauseFunc
	// overdue is set if others may take its slot, and stopped if one does.
	overdue, stopped bool
}

func (r *run) key() string { return r.namespace + "/" + r.target }

// lane is a number of slots. The mutex of Slots guards its fields.
type lane struct {
	slots            int
	running, waiting []*run // by arrival
}

// fits reports whether there is a free slot that r may take.
func (l *lane) fits(r *run) bool {
	return len(l.running) < l.slots && l.count(r.namespace) < l.slots/2 &&
		count(l.running, func(other *run) bool { return other.key() == r.key() }) < l.slots/4
}

// count returns how many plugins of a namespace run.
func (l *lane) count(namespace string) int {
	return count(l.running, func(r *run) bool { return r.namespace == namespace })
}

func count(runs []*run, is func(*run) bool) (n int) {
	for _, r := range runs {
		if is(r) {
			n++
		}
	}
	return n
}

func (l *lane) remove(r *run) {
	is := func(other *run) bool { return other == r }
	l.running, l.waiting = slices.DeleteFunc(l.running, is), slices.DeleteFunc(l.waiting, is)
	l.schedule()
}

// schedule gives free slots to plugins that wait. For each that still waits, it stops an overdue
// one, if that helps.
func (l *lane) schedule() {
	for r := l.next(); r != nil; r = l.next() {
		l.waiting = slices.DeleteFunc(l.waiting, func(other *run) bool { return other == r })
		l.running = append(l.running, r)
		close(r.granted)
	}
	// soon is the lane after the stopped ones have ended.
	soon := lane{slots: l.slots, running: slices.DeleteFunc(slices.Clone(l.running), func(r *run) bool { return r.stopped })}
	for _, r := range l.waiting {
		if soon.fits(r) || soon.displace(r) {
			soon.running = append(soon.running, r)
		}
	}
}

// next returns the plugin that gets the next slot; nil if none fits.
func (l *lane) next() (next *run) {
	for _, r := range l.waiting {
		if l.fits(r) && (next == nil || l.precedes(r, next)) {
			next = r
		}
	}
	return next
}

// precedes reports whether a plugin gets a slot before one that arrived earlier.
func (l *lane) precedes(r, earlier *run) bool {
	if running, others := l.count(r.namespace), l.count(earlier.namespace); running != others {
		return running < others
	}
	return r.known && !earlier.known
}

// displace stops the first overdue plugin whose slot r may take, and reports whether there is one.
func (l *lane) displace(r *run) bool {
	for i, other := range l.running {
		rest := lane{slots: l.slots, running: slices.Delete(slices.Clone(l.running), i, i+1)}
		if other.overdue && rest.fits(r) {
			other.stopped = true
			other.stop(errOverdue)
			l.running = rest.running
			return true
		}
	}
	return false
}
