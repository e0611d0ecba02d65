package credentials

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	held := func(source string, age time.Duration) *stored.Credential {
		at := now.Add(-age)
		return &stored.Credential{Record: stored.Record{Source: source, IssuedAt: at, RenewAt: at.Add(48 * time.Minute), NotAfter: at.Add(time.Hour)}}
	}
	fresh, due, ended, other := held("a", 5*time.Minute), held("a", 50*time.Minute), held("a", 2*time.Hour), held("b", 5*time.Minute)
	fromTheFuture, young := held("a", -time.Hour), held("a", 30*time.Second)
	for name, tt := range map[string]struct {
		missing      bool
		stored, kept *stored.Credential
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
		"deleted again":                       {true, nil, young, decision{use: young}},
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
