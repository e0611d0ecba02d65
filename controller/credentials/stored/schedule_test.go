package stored

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/keyferry/keyferry/providers"
)

func TestRenewAfter(t *testing.T) {
	for _, tt := range []struct {
		life, maxLife time.Duration
		chance        float64
		want          time.Duration
	}{
		{10 * time.Minute, 0, 0, 5 * time.Minute},
		{20 * time.Minute, 0, 0, 15 * time.Minute},
		{25 * time.Minute, 0, 0, 20 * time.Minute},
		{time.Hour, 0, 0, 48 * time.Minute},
		{time.Hour, 0, 0.5, 43*time.Minute + 12*time.Second},
		{48 * time.Hour, 0, 0, 38*time.Hour + 24*time.Minute},
		{time.Hour, 20 * time.Second, 0, 16 * time.Second},
		{10 * time.Minute, time.Hour, 0, 5 * time.Minute},
	} {
		if got := RenewAfter(tt.life, tt.maxLife, tt.chance); got != tt.want {
			t.Errorf("RenewAfter(%s, %s, %v) = %s, want %s", tt.life, tt.maxLife, tt.chance, got, tt.want)
		}
	}
}

func TestLifeOf(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for name, tt := range map[string]struct {
		token string
		left  time.Duration
		want  time.Duration
	}{
		"clocks agree":         {jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, now.Unix(), now.Unix()+3600)), time.Hour, time.Hour},
		"clock here is slow":   {jwt(`{"iat":1000,"exp":4600}`), 3 * time.Hour, time.Hour},
		"clock here is fast":   {jwt(`{"iat":1000,"exp":4600}`), 20 * time.Minute, 20 * time.Minute},
		"half of it is over":   {jwt(`{"iat":1000,"exp":8200}`), time.Hour, time.Hour},
		"it says nothing":      {"opaque", 30 * time.Minute, 30 * time.Minute},
		"only when it ends":    {jwt(`{"exp":4600}`), 30 * time.Minute, 30 * time.Minute},
		"ends before it began": {jwt(`{"iat":4600,"exp":1000}`), 30 * time.Minute, 30 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			if got := LifeOf(providers.Credential{Token: tt.token, NotAfter: now.Add(tt.left)}, now); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
