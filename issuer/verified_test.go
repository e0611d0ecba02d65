package issuer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/verify"
	"github.com/keyferry/keyferry/providers"
)

// verifier answers for a target.
type verifier struct {
	asked  int
	answer error
}

func (v *verifier) verify(context.Context, providers.Credential, string) error {
	v.asked++
	return v.answer
}

func rejected() error { return fmt.Errorf("%w: 401 Unauthorized", verify.ErrRejected) }

func newVerified(t *testing.T) (*world, *verifier) {
	t.Helper()
	v := &verifier{}
	return newWorld(t, func(c *issuer.Config) { c.Verify = v.verify }), v
}

// TestRejectedFromTheStart: a target whose endpoint issues tokens, and does not accept them. Nobody
// gets one, the error says what to do, and the number of tokens that are requested in vain is
// bounded.
func TestRejectedFromTheStart(t *testing.T) {
	w, v := newVerified(t)
	v.answer = rejected()
	for range 60 * 60 {
		_, err := w.issuer.Issue(t.Context(), tenant, web)
		if !errors.Is(err, providers.ErrRefused) || !errors.Is(err, verify.ErrRejected) || !strings.Contains(err.Error(), "authorized cluster endpoint") {
			t.Fatalf("got %v", err)
		}
		w.pass(time.Second)
	}
	if issued, _ := w.counts(); issued < 10 || issued > 20 {
		t.Errorf("%d tokens were requested in an hour", issued)
	}
	if last := w.last(); !errors.Is(last.Err, verify.ErrRejected) || last.Kept {
		t.Errorf("observed %v", last)
	}
	v.answer = nil
	w.pass(5 * time.Minute)
	w.issue(web)
}

// TestRejectedLater: Pods report that the target rejects each new credential. It is verified then,
// and replaced less and less often; until another one is accepted, the last one stays.
func TestRejectedLater(t *testing.T) {
	for name, test := range map[string]struct {
		answer   error
		min, max int // tokens that are requested in two hours
	}{
		"the target rejects it, too":   {rejected(), 2, 40},
		"the target accepts it":        {nil, 4, 14},
		"the target does not say more": {errors.New("403"), 4, 14},
	} {
		t.Run(name, func(t *testing.T) {
			w, v := newVerified(t)
			began := w.clock()
			w.issue(web)
			v.answer = test.answer
			for range 2 * 60 * 6 {
				if issued, err := w.issuer.Issue(t.Context(), tenant, web); err == nil {
					w.issuer.Refused(issued)
				} else if !errors.Is(err, verify.ErrRejected) || w.clock().Before(began.Add(59*time.Minute)) {
					t.Fatalf("at %v: %v", w.clock(), err)
				}
				w.pass(10 * time.Second)
			}
			if issued, _ := w.counts(); issued < test.min || issued > test.max {
				t.Errorf("%d tokens were requested in two hours", issued)
			}
			if last := w.last(); errors.Is(last.Err, verify.ErrRejected) != errors.Is(test.answer, verify.ErrRejected) {
				t.Errorf("observed %v", last.Err)
			}
		})
	}
}

// TestVerificationTakesNothingAway: a target that cannot say whether it accepts a credential counts
// as one that does, and is asked again after some time. A target that accepted one is asked once an
// hour.
func TestVerificationTakesNothingAway(t *testing.T) {
	w, v := newVerified(t)
	v.answer = errors.New("verifying the credential: the target answers 403")
	w.issue(web)
	w.pass(50 * time.Minute)
	w.issue(web)
	if v.asked != 2 {
		t.Errorf("verified %d times, want with each token", v.asked)
	}
	v.answer = nil
	for range 10 {
		w.pass(50 * time.Minute)
		w.issue(web)
	}
	if v.asked < 7 || v.asked > 12 {
		t.Errorf("verified %d times", v.asked)
	}
	// The one before is good, although the next is not.
	v.answer = rejected()
	w.pass(70 * time.Minute)
	w.with(func() { w.life = 3 * time.Hour })
	v.answer = nil
	before := w.issue(web)
	v.answer = rejected()
	w.pass(150 * time.Minute)
	if got := w.issue(web); got.Token != before.Token {
		t.Errorf("got %s, want %s, which is valid", got.Token, before.Token)
	}
	if last := w.last(); !errors.Is(last.Err, verify.ErrRejected) || !last.Kept {
		t.Errorf("observed %v", last)
	}
}
