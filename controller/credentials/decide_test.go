package credentials

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	held := func(source string, age time.Duration) *holding {
		at := now.Add(-age)
		return &holding{record: record{Source: source, IssuedAt: at, RenewAt: at.Add(48 * time.Minute), NotAfter: at.Add(time.Hour)}}
	}
	fresh, due, ended, other := held("a", 5*time.Minute), held("a", 50*time.Minute), held("a", 2*time.Hour), held("b", 5*time.Minute)
	fromTheFuture, new := held("a", -time.Hour), held("a", 30*time.Second)
	for name, tt := range map[string]struct {
		missing      bool
		stored, kept *holding
		want         decision
	}{
		"nothing yet":                         {true, nil, nil, decision{}},
		"all is well":                         {false, fresh, fresh, decision{use: fresh}},
		"all is well, after a restart":        {false, fresh, nil, decision{use: fresh}},
		"due":                                 {false, due, due, decision{fallback: due}},
		"due, and the newer was not written":  {false, due, fresh, decision{use: fresh}},
		"ended":                               {false, ended, ended, decision{}},
		"from something else":                 {false, other, other, decision{}},
		"from something else, newer is there": {false, other, fresh, decision{use: fresh}},
		"edited":                              {false, nil, fresh, decision{use: fresh}},
		"edited, after a restart":             {false, nil, nil, decision{}},
		"edited and due":                      {false, nil, due, decision{fallback: due}},
		"deleted":                             {true, nil, fresh, decision{fallback: fresh}},
		"deleted again":                       {true, nil, new, decision{use: new}},
		"deleted, from something else":        {true, nil, other, decision{}},
		"issued by a clock that was wrong":    {false, fromTheFuture, nil, decision{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decide(situation{now: now, source: "a", missing: tt.missing, stored: tt.stored, kept: tt.kept}); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

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
		if got := renewAfter(tt.life, tt.maxLife, tt.chance); got != tt.want {
			t.Errorf("renewAfter(%s, %s, %v) = %s, want %s", tt.life, tt.maxLife, tt.chance, got, tt.want)
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
			if got := lifeOf(providers.Credential{Token: tt.token, NotAfter: now.Add(tt.left)}, now); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestRevocationsAreKept(t *testing.T) {
	now := time.Now()
	old := v1alpha1.Revocation{TargetCluster: v1alpha1.ObjectReference{Namespace: "fleet", Name: "one"}, Handle: "a/b"}
	used := v1alpha1.Revocation{TargetCluster: v1alpha1.ObjectReference{Namespace: "fleet", Name: "two"}, Handle: "a/b"}
	list, changed := claim(nil, old)
	if !changed || len(list) != 1 {
		t.Fatalf("list %v", list)
	}
	if _, changed := claim(list, old); changed {
		t.Error("claimed twice")
	}
	list, _ = claim(list, used)
	left := leave(list, used, now)
	if left[0].Since == nil || left[1].Since != nil || list[0].Since != nil {
		t.Errorf("left %v, of %v", left, list)
	}
	if again := leave(left, used, now.Add(time.Hour)); !again[0].Since.Equal(&metav1.Time{Time: now}) {
		t.Errorf("left again %v", again)
	}
	if back, changed := claim(left, old); !changed || back[0].Since != nil || left[0].Since == nil {
		t.Errorf("used again %v, of %v", back, left)
	}
}
