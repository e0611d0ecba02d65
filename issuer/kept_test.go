package issuer_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

// mirrored has a token requested for each ServiceAccount.
var mirrored = v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
	ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountMirror},
}}

// pods is a request of each of so many Pods of so many ServiceAccounts.
func pods(n, accounts int) []providers.Request {
	all := make([]providers.Request, n)
	for i := range all {
		account := fmt.Sprint("sa-", i%accounts)
		all[i].Identity = providers.Identity{
			Namespace: "app", ServiceAccount: account, ServiceAccountUID: account, PodName: fmt.Sprint("pod-", i), PodUID: fmt.Sprint(i),
		}
	}
	return all
}

// askAll asks for all at the same time.
func (p *pair) askAll(requests []providers.Request) {
	p.t.Helper()
	var all sync.WaitGroup
	for _, req := range requests {
		all.Go(func() {
			if _, err := p.issuer.Issue(p.t.Context(), p.name("tenant-1"), req); err != nil {
				p.t.Error(err)
			}
		})
	}
	all.Wait()
}

// wantCounts checks how often provider and target have been asked.
func (p *pair) wantCounts(provider, target int) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked != provider || len(p.seen) != target {
		p.t.Errorf("the provider was asked %d times and the target %d times, want %d and %d", p.asked, len(p.seen), provider, target)
	}
}

func TestAccessIsKeptBetweenTokenRequests(t *testing.T) {
	for _, kind := range []v1alpha1.AccessType{v1alpha1.AccessSpider, v1alpha1.AccessTumblebug} {
		t.Run(string(kind), func(t *testing.T) {
			p := newPair(t, kind, mirrored)
			p.askAll(pods(500, 50))
			p.wantCounts(1, 50)

			// The tokens are refreshed after 48 minutes; the access credential, which lives for 10, is asked
			// for again.
			p.with(func() { p.now = p.now.Add(48 * time.Minute) })
			p.askAll(pods(500, 50))
			p.wantCounts(2, 100)

			// An outage of the provider is not one of the target while the access credential lives, but is
			// heard of.
			p.with(func() { p.now, p.fail["tenant-1"] = p.now.Add(9*time.Minute), true })
			p.askAll(pods(60, 60)[50:])
			p.wantCounts(3, 110)
			if e := p.events[len(p.events)-11]; e.Err == nil || !e.Kept || strings.Contains(e.Err.Error(), planted) {
				t.Errorf("observed %+v", e)
			}
			p.with(func() { p.now = p.now.Add(time.Minute) })
			_, err := p.issuer.Issue(t.Context(), p.name("tenant-1"), pods(61, 61)[60])
			if !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "getting into the target: ") {
				t.Errorf("at its end: %v", err)
			}
			p.with(func() { p.now, p.fail["tenant-1"] = p.now.Add(10*time.Second), false })
			p.askAll(pods(61, 61)[60:])
		})
	}
}

// NCP's tokens are made without asking anybody, but each new one would be a new connection to the
// target.
func TestAccessOfNCPIsKept(t *testing.T) {
	p := newPair(t, v1alpha1.AccessNCP, mirrored)
	p.askAll(pods(50, 50))
	p.with(func() { p.now = p.now.Add(119 * time.Second) })
	p.askAll(pods(100, 100)[50:])
	p.with(func() { p.now = p.now.Add(time.Second) })
	p.askAll(pods(150, 150)[100:])
	tokens := map[string]int{}
	for _, token := range p.seen {
		tokens[token]++
	}
	if len(tokens) != 2 || tokens[p.seen[0]] != 100 {
		t.Errorf("the target saw %d tokens, the first of them %d times", len(tokens), tokens[p.seen[0]])
	}
}

// A credential that was withdrawn is not kept to its end.
func TestRejectedAccessIsReplaced(t *testing.T) {
	p := newPair(t, v1alpha1.AccessSpider, mirrored)
	one := pods(20, 20)
	p.askAll(one[:1])
	p.with(func() { p.reject, p.now = "Bearer of-tenant-1-at-12.00", p.now.Add(2*time.Minute) })
	ask := func(req providers.Request) error {
		_, err := p.issuer.Issue(t.Context(), p.name("tenant-1"), req)
		return err
	}
	if err := ask(one[1]); !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), "does not accept the access credential") {
		t.Errorf("got %v", err)
	}
	p.with(func() { p.now = p.now.Add(time.Second) })
	p.askAll(one[1:3])
	p.wantCounts(2, 4)

	// Where each is rejected, the provider is not asked for each request.
	p.with(func() { p.reject = "Bearer" })
	for i := range 10 {
		if err := ask(one[5+i]); err == nil {
			t.Error("no error")
		}
	}
	p.wantCounts(2, 14)
	p.with(func() { p.now = p.now.Add(10 * time.Second) })
	if err := ask(one[15]); err == nil {
		t.Error("no error")
	}
	p.wantCounts(3, 15)
}

func TestAccessIsKeptForEachTargetClusterAndSecret(t *testing.T) {
	p := newPair(t, v1alpha1.AccessTumblebug, fromTarget)
	p.issue("tenant-1")
	p.issue("tenant-2")
	p.wantCounts(2, 2)
	if p.seen[0] == p.seen[1] {
		t.Error("both are entered with the same credential")
	}
	p.secret().ResourceVersion = "2"
	p.with(func() { p.now = p.now.Add(5 * time.Second) })
	p.issue("tenant-1")
	p.wantCounts(2, 2) // the token that was issued does not depend on the Secret
	p.with(func() { p.now = p.now.Add(time.Hour) })
	p.issue("tenant-1")
	p.wantCounts(3, 3)
}

// The probe of the controller goes by the same credential, until the target rejects it.
func TestAccessOfAResolutionIsAKeeper(t *testing.T) {
	p := newPair(t, v1alpha1.AccessSpider, fromTarget)
	var first issuer.Resolution
	for range 2 {
		resolution, err := p.issuer.Resolve(t.Context(), p.cluster())
		if err != nil {
			t.Fatal(err)
		}
		first = resolution
		if _, err := first.Access.Issue(t.Context(), providers.Request{}); err != nil {
			t.Fatal(err)
		}
	}
	p.wantCounts(1, 0)
	if _, ok := first.Access.(providers.Keeper); !ok {
		t.Error("it cannot be told of a rejection")
	}
}
