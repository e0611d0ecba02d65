package providers_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keyferry/keyferry/providers"
)

func TestUnavailable(t *testing.T) {
	cause := errors.New("connection refused")
	err := providers.Unavailable(time.Minute, cause)
	if !errors.Is(err, providers.ErrUnavailable) || !errors.Is(err, cause) || providers.RetryAfter(err) != time.Minute {
		t.Errorf("%v wraps too little", err)
	}
	if got := providers.RetryAfter(cause); got != 0 {
		t.Errorf("RetryAfter of another error is %v, want 0", got)
	}
}

func TestShareKey(t *testing.T) {
	one := providers.Request{Identity: providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "1", PodName: "web-0", PodUID: "a"}}
	other := one
	other.Identity.PodUID = "b"
	if providers.ShareKey(alone{}, one) == providers.ShareKey(alone{}, other) {
		t.Error("two Pods share a credential that is not to be shared")
	}
	if got := providers.ShareKey(shared{}, one); got != "everybody" {
		t.Errorf("got %q, want what the Sharer says", got)
	}
}

type alone struct{}

func (alone) Issue(context.Context, providers.Request) (providers.Credential, error) {
	return providers.Credential{}, providers.ErrRefused
}

type shared struct{ alone }

func (shared) ShareKey(providers.Request) string { return "everybody" }
