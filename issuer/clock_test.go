package issuer_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/keyferry/keyferry/internal/clocktest"
	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/issuer"
)

// TestClockIsSet: when the clock of a broker is set, or its machine was suspended, nobody is given
// a credential that has ended, and none more than one needlessly issued.
func TestClockIsSet(t *testing.T) {
	const span, tick = 6 * time.Hour, 20 * time.Second
	for name, by := range map[string]struct {
		set     time.Duration
		suspend bool // so that the time by which the clock is set has passed for all others
	}{
		"not at all":           {0, false},
		"10 minutes forward":   {10 * time.Minute, false},
		"10 minutes back":      {-10 * time.Minute, false},
		"a day forward":        {24 * time.Hour, false},
		"a day back":           {-24 * time.Hour, false},
		"suspended for 10 min": {10 * time.Minute, true},
		"suspended for a day":  {24 * time.Hour, true},
	} {
		for _, life := range []time.Duration{10 * time.Minute, time.Hour} {
			t.Run(fmt.Sprintf("%s, %v", name, life), func(t *testing.T) {
				clock := clocktest.New()
				w := newWorld(t, func(c *issuer.Config) { c.Now = clock.Now })
				w.now = clock.Now().Round(0) // the target's, which nobody sets
				ends := map[string]time.Time{}
				w.failWith(func(rw http.ResponseWriter, _ *http.Request) {
					now := w.clock()
					end := now.Add(life)
					token := "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iat":%d,"exp":%d}`, now.Unix(), end.Unix())) + ".e30"
					w.with(func() { ends[token] = end })
					rw.Header().Set("Content-Type", "application/json")
					_, _ = fmt.Fprintf(rw, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","status":{"token":%q,"expirationTimestamp":%q}}`,
						token, end.UTC().Format(time.RFC3339))
				})
				for at := time.Duration(0); at < span; at += tick {
					w.pass(tick)
					clock.Pass(tick)
					if at == span/3 {
						clock.Set(by.set)
						if by.suspend {
							w.pass(by.set)
						}
					}
					got := w.issue(web)
					left := ends[got.Token].Sub(w.clock())
					if left <= 0 {
						t.Fatalf("after %v one is given out that ended %v ago", at, -left)
					}
					if told := got.NotAfter.Round(0).Sub(clock.Now().Round(0)); told <= 0 {
						t.Errorf("after %v one is said to have ended %v ago", at, -told)
					}
				}
				if most := int(span/min(life*8/10, life-expiry.UrgentPeriod)) + 1 + 1; len(ends) > most {
					t.Errorf("%d were issued, want %d at most", len(ends), most)
				}
			})
		}
	}
}
