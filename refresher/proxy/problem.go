package proxy

import (
	"context"
	"time"
)

// startTimeout is how long a request waits for the first credential, when the sidecar was restarted
// under a running application. It leaves a client that waits for 5 s the time to read why there is
// none.
const startTimeout = 2 * time.Second

// Problem is why there is no newer target.
type Problem struct {
	// Reason is for the users of clients, and holds no secret.
	Reason string
	// Refused says that the broker has answered, so that the next moment makes no difference.
	Refused bool
	// RetryAt is when it is asked again.
	RetryAt time.Time
}

// Fail makes problem what requests are told, until Set, if there is no target, or its credential
// has ended.
func (p *Proxy) Fail(problem Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problem = problem
	p.announce()
}

// announce wakes all who wait for Set or Fail. The caller has locked p.mu.
func (p *Proxy) announce() {
	close(p.news)
	p.news = make(chan struct{})
}

// await returns the target. Whether its credential has ended is the target's to say: it may be good
// for longer than the broker reports, and this node's clock may be wrong.
func (p *Proxy) await(ctx context.Context) (*upstream, error) {
	if up := p.current.Load(); up != nil {
		return up, nil
	}
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	for {
		p.mu.Lock()
		up, problem, news := p.current.Load(), p.problem, p.news
		p.mu.Unlock()
		switch {
		case up != nil:
			return up, nil
		case problem.Refused:
			return nil, p.noCredential("there is no credential for " + p.config.Cluster)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timeout.C:
			return nil, p.noCredential("there is no credential for " + p.config.Cluster + " yet")
		}
	}
}

// noCredentialError is why nothing can be forwarded.
type noCredentialError struct {
	sentence string
	problem  Problem
}

// noCredential returns a noCredentialError with the Problem of the moment.
func (p *Proxy) noCredential(sentence string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return noCredentialError{sentence, p.problem}
}

func (n noCredentialError) Error() string {
	if n.problem.Reason == "" {
		return n.sentence
	}
	return n.sentence + ": " + n.problem.Reason
}
