package tokenrequest_test

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/keyferry/keyferry/providers"
)

// TestClocks: however far the target's clock is from ours, a token is taken to be valid for as long
// as it is.
func TestClocks(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	for name, ahead := range map[string]time.Duration{
		"agree": 0, "target ahead": 10 * time.Minute, "target far ahead": 24 * time.Hour, "target behind": -10 * time.Minute, "target far behind": -24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			there := now.Add(ahead)
			end := there.Add(10 * time.Minute)
			claims := fmt.Appendf(nil, `{"iat":%d,"exp":%d}`, there.Unix(), end.Unix())
			issued := "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".e30"
			_, access := target(t, token(issued, `"`+end.UTC().Format(time.RFC3339)+`"`))
			cfg := config(access)
			cfg.Now = func() time.Time { return now }
			got, err := provider(t, cfg).Issue(t.Context(), providers.Request{})
			if err != nil {
				t.Fatal(err)
			}
			if life := got.NotAfter.Sub(now); life != 10*time.Minute {
				t.Errorf("it ends in %v, want 10m", life)
			}
		})
	}
}
