package webhook

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, answer, failure := 0, "10.96.4.2", error(nil)
		address := &Address{Host: "keyferry-broker.keyferry-system.svc", Lookup: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			asked++
			if host != "keyferry-broker.keyferry-system.svc" {
				t.Errorf("asks for %s", host)
			}
			if failure != nil {
				return nil, failure
			}
			return []netip.Addr{netip.MustParseAddr(answer)}, nil
		}}
		is := func(want string, wantAsked int) {
			t.Helper()
			if got, err := address.Get(t.Context()); got != want || err != nil || asked != wantAsked {
				t.Errorf("got %s, %v after %d questions; want %s after %d", got, err, asked, want, wantAsked)
			}
		}
		failure = errors.New("no such host")
		if got, err := address.Get(t.Context()); got != "" || !errors.Is(err, failure) {
			t.Errorf("got %q, %v", got, err)
		}
		failure = nil
		is("10.96.4.2", 2)
		answer = "::ffff:10.96.4.3"
		is("10.96.4.2", 2)
		time.Sleep(addressLife) //nolint:forbidigo // of synctest's clock
		is("10.96.4.3", 3)
		time.Sleep(addressLife) //nolint:forbidigo // of synctest's clock
		failure = errors.New("no answer")
		is("10.96.4.3", 4)
	})
}
