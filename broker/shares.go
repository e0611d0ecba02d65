package broker

import (
	"sync"
	"time"
)

// Rate limits of one client, so that it cannot keep others from being served. A refresher sends one
// request a minute for each of its clusters, and a few in a row when it starts or the provider
// fails.
const (
	questionsPerSecond, questionsAtOnce = 2, 60
	// Rejected tokens are counted by address, because their owner is unknown. Each may cost a
	// TokenReview and an audit line. All Pods of a node may have the same address, depending on the
	// network.
	refusalsPerSecond, refusalsAtOnce = 2, 60
)

// shares is a rate limiter with a token bucket for each client: atOnce requests, and perSecond more
// each second.
type shares struct {
	perSecond, atOnce float64
	now               func() time.Time

	mu sync.Mutex
	// of contains the clients whose bucket is not full.
	of    map[string]*share
	swept time.Time
}

type share struct {
	left float64
	// at is the time for which left was computed.
	at time.Time
	// exhausted is set if the client has been rejected since it last took a request.
	exhausted bool
}

func newShares(perSecond, atOnce float64, now func() time.Time) *shares {
	return &shares{perSecond: perSecond, atOnce: atOnce, now: now, of: map[string]*share{}, swept: now()}
}

// wait returns the time until the client may send a request; zero if it may now. again reports
// whether the client was already rejected since its last request.
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

// take counts a request of the client. The bucket may go down to -1.
func (s *shares) take(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.refill(client)
	have.left = max(have.left-1, -1)
	have.exhausted = false
}

// refill returns the client's current bucket. The caller must hold s.mu.
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
	// If the clock was set back, nothing is subtracted.
	return min(s.atOnce, have.left+max(0, now.Sub(have.at).Seconds())*s.perSecond)
}

// sweep removes the clients whose bucket is full, once a minute.
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
