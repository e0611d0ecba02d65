package broker

import (
	"sync"
	"time"
)

// What one client may ask, so that others are served whatever it does. A refresher asks once a
// minute for each of its clusters, and a few times in a row when it starts or the provider fails.
const (
	questionsPerSecond, questionsAtOnce = 2, 60
	// Refused tokens are counted by address, as nobody knows whose they are. Each may cost a
	// TokenReview and a line of the audit. The Pods of a node share one address where the network
	// hides theirs.
	refusalsPerSecond, refusalsAtOnce = 2, 60
)

// shares gives every client the same: a number at once, and then so many per second.
type shares struct {
	perSecond, atOnce float64
	now               func() time.Time

	mu sync.Mutex
	// of holds clients that have not their whole share; the others are left out.
	of    map[string]*share
	swept time.Time
}

type share struct {
	left float64
	// at is when it was left.
	at time.Time
	// exhausted says that somebody has been told that nothing is left, since something was last taken.
	exhausted bool
}

func newShares(perSecond, atOnce float64, now func() time.Time) *shares {
	return &shares{perSecond: perSecond, atOnce: atOnce, now: now, of: map[string]*share{}, swept: now()}
}

// wait returns how long it takes until the client has something left; zero if it has. Again says
// that it has been told so already.
func (s *shares) wait(client string) (wait time.Duration, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.refill(client)
	if have.left >= 1 {
		return 0, false
	}
	again, have.exhausted = have.exhausted, true
	return time.Duration((1 - have.left) / s.perSecond * float64(time.Second)), again
}

// take takes one from the client's share, which may leave less than nothing.
func (s *shares) take(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.refill(client)
	have.left = max(have.left-1, -1)
	have.exhausted = false
}

// refill returns the client's share of this moment. The caller has locked s.mu.
func (s *shares) refill(client string) *share {
	now := s.now()
	s.sweep(now)
	have, ok := s.of[client]
	if !ok {
		have = &share{left: s.atOnce, at: now}
		s.of[client] = have
	}
	have.left, have.at = s.leftAt(have, now), now
	return have
}

func (s *shares) leftAt(have *share, now time.Time) float64 {
	// A clock that was set back takes nothing away.
	return min(s.atOnce, have.left+max(0, now.Sub(have.at).Seconds())*s.perSecond)
}

// sweep forgets, once a minute, who has a whole share again.
func (s *shares) sweep(now time.Time) {
	if elapsed := now.Sub(s.swept); elapsed >= 0 && elapsed < time.Minute {
		return
	}
	s.swept = now
	for client, have := range s.of {
		if s.leftAt(have, now) >= s.atOnce {
			delete(s.of, client)
		}
	}
}
