package proxy

import (
	"context"
	"time"
)

// startTimeout is how long a request waits for the first credential, if the sidecar was restarted
// while the application is running. A client with a timeout of 5 s still receives the reason for a
// missing credential.
const startTimeout = 2 * time.Second

// Problem is the reason why there is no newer target.
type Problem struct {
	// Reason is for users of clients. It contains no secret.
	Reason string
	// Refused reports that the broker answered with an error, so waiting a moment does not help.
	Refused bool
	// RetryAt is the time of the next request to the broker.
	RetryAt time.Time
}

// Fail makes requests fail with problem, until the next Set, if there is no target or its
// credential has expired.
func (p *Proxy) Fail(problem Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problem = problem
	p.announce()
}

// announce wakes all goroutines that wait for Set or Fail. The caller must hold p.mu.
func (p *Proxy) announce() {
	close(p.news)
	p.news = make(chan struct{})
}

// await returns the target. It does not check the expiry, because the target decides: the
// credential may be valid for longer than the broker reports, and this node's clock may be wrong.
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

// noCredentialError is the error for requests that cannot be forwarded without a credential.
type noCredentialError struct {
	sentence string
	problem  Problem
}

// noCredential returns a noCredentialError with the current Problem.
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
