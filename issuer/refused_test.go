package issuer_test

import (
	"net/http"
	"testing"
	"time"
)

// TestRefusedCredentialIsReplaced: at once, but not more often than once a minute, and for all who
// share it.
func TestRefusedCredentialIsReplaced(t *testing.T) {
	w := newWorld(t)
	first := w.issue(web)
	w.issuer.Refused(first)
	if got := w.issue(web); got.Token != "token-1" {
		t.Errorf("%s is issued at once", got.Token)
	}
	w.pass(time.Minute)
	second := w.issue(web) // what was said before is remembered
	if second.Token != "token-2" || second.Cached {
		t.Errorf("after a minute: %s, cached %v", second.Token, second.Cached)
	}
	w.pass(2 * time.Minute)
	w.issuer.Refused(first)
	if got := w.issue(web); got.Token != "token-2" {
		t.Errorf("%s is issued, and only the one before was refused", got.Token)
	}
	w.issuer.Refused(second)
	if got := w.issue(web); got.Token != "token-3" {
		t.Errorf("refused, and %s is still answered", got.Token)
	}
}

// TestRefusedCredentialIsKeptWhileTheSourceFails: one Pod's word takes nothing from the others, and
// has a provider that fails asked no more often.
func TestRefusedCredentialIsKeptWhileTheSourceFails(t *testing.T) {
	w := newWorld(t)
	first := w.issue(web)
	w.pass(5 * time.Minute)
	w.failWith(answers(http.StatusServiceUnavailable, "ServiceUnavailable", ""))
	w.issuer.Refused(first)
	for range 10 {
		if got := w.issue(web); got.Token != "token-1" {
			t.Fatalf("got %s", got.Token)
		}
		w.issuer.Refused(first)
	}
	if asked, _ := w.counts(); asked != 2 {
		t.Errorf("the provider was asked %d times, want once more than for the first", asked)
	}
	w.failWith(nil)
	w.pass(10 * time.Second)
	if got := w.issue(web); got.Token != "token-3" {
		t.Errorf("when the provider is back: %s", got.Token)
	}
}
