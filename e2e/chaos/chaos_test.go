package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestScheduleCanBeRepeated(t *testing.T) {
	t.Parallel()
	one, same, other := NewSchedule(1), NewSchedule(1), NewSchedule(2)
	differs := false
	for range 50 {
		a, b, c := one.Next(), same.Next(), other.Next()
		if !slices.Equal(a, b) {
			t.Fatalf("of one seed come %v and %v", a, b)
		}
		differs = differs || !slices.Equal(a, c)
	}
	if !differs {
		t.Error("two seeds have one schedule")
	}
}

// TestScheduleHasAll: within as many phases as a run of ten minutes has, each fault comes.
func TestScheduleHasAll(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		seen := map[string]int{}
		s := NewSchedule(seed)
		for range 12 {
			for _, f := range s.Next() {
				seen[f.String()]++
			}
		}
		want := 10 + len(Pairs())*2 + len(Parties()) + len(Troubles())
		if len(seen) != want {
			t.Errorf("seed %d: %d faults in 12 phases, want all %d", seed, len(seen), want)
		}
		for _, heavy := range []string{"kill management etcd", "kill target kube-apiserver"} {
			if seen[heavy] > 2 {
				t.Errorf("seed %d: %s comes %d times: the kubelet would wait ever longer", seed, heavy, seen[heavy])
			}
		}
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]Class{
		"listing namespaces: the token has ended":                                                                Want,
		"opening a watch: there is no credential for TargetCluster fleet/a yet: the broker cannot be reached":    Want,
		"asking who I am: the credential for TargetCluster fleet/a ended at 2026-01-01T00:00:00Z":                Want,
		"listing namespaces: open /var/run/secrets/x/token: no such file or directory":                           Want,
		"listing namespaces: Unauthorized":                                                                       Refused,
		"listing namespaces: the server has asked for the client to provide credentials (get namespaces)":        Refused,
		`listing namespaces: namespaces is forbidden: User "a" cannot list resource "namespaces"`:                Refused,
		"listing namespaces: Get \"https://forward.a.svc:8443/api\": dial tcp 10.0.0.1:8443: connection refused": Unreachable,
		"listing namespaces: context deadline exceeded":                                                          Unreachable,
	} {
		if got := Classify(message); got != want {
			t.Errorf("%q is %s, want %s", message, got, want)
		}
	}
}

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func second(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }

func TestAccount(t *testing.T) {
	t.Parallel()
	phases := []*Phase{
		{Start: second(10)},
		{Start: second(20), Faults: []Fault{{Kind: Kill, Target: "target etcd"}}},
		{Start: second(30)},
	}
	Account(phases, []Sample{
		{Time: second(5), Requests: 100, Failures: 7, LastError: "the token has ended"}, // before
		{Time: second(10), Requests: 101, Failures: 7},
		{Time: second(19), Requests: 110, Failures: 8, LastError: "connection refused"},
		{Time: second(21), Requests: 111, Failures: 9, LastError: "Unauthorized"},
		{Time: second(29), Requests: 120, Failures: 11, LastError: "the token has ended"},
		{Time: second(31), Requests: 121, Failures: 12, LastError: "Unauthorized"},
	})
	// Another process of the same Pod begins again.
	Account(phases, []Sample{{Time: second(32), Requests: 1}, {Time: second(99), Requests: 5}})
	AccountRenewals(phases, []Renewal{{Time: second(1)}, {Time: second(12)}, {Time: second(22)}, {Time: second(29)}})
	type counted struct{ requests, failed, atStart, wanting, renewals int }
	for i, want := range []counted{{10, 1, 0, 0, 1}, {10, 3, 1, 2, 2}, {6, 1, 0, 1, 0}} {
		p := phases[i]
		failed := p.Failed[Want] + p.Failed[Refused] + p.Failed[Unreachable]
		if got := (counted{p.Requests, failed, p.AtStart(), p.Wanting(), p.Renewals}); got != want {
			t.Errorf("phase %d: %+v, want %+v", i, got, want)
		}
	}
}

func TestReadsLogsOfNodes(t *testing.T) {
	t.Parallel()
	client := `2026-01-01T12:00:00.1Z stdout F {"time":"2026-01-01T12:00:00Z","requests":3,"failures":1,"lastError":"no \"more\""}
2026-01-01T12:00:01.1Z stderr F panic: something else
`
	if got := Samples([]byte(client)); len(got) != 1 || got[0].Requests != 3 || got[0].LastError != `no "more"` || !got[0].Time.Equal(start) {
		t.Errorf("samples %+v", got)
	}
	refresher := `2026-01-01T12:00:00.1Z stderr F {"time":"2026-01-01T12:00:00Z","msg":"credential renewed","notAfter":"2026-01-01T12:02:00Z"}
2026-01-01T12:00:01.1Z stderr F {"time":"2026-01-01T12:00:01Z","msg":"keeping the last good credential","notAfter":"2026-01-01T12:02:00Z"}
`
	if got := Renewals([]byte(refresher)); len(got) != 1 || !got[0].NotAfter.Equal(second(120)) {
		t.Errorf("renewals %+v", got)
	}
}

func TestGap(t *testing.T) {
	t.Parallel()
	renewals := []Renewal{{Time: second(150), NotAfter: second(270)}, {Time: second(0), NotAfter: second(120)}, {Time: second(60), NotAfter: second(180)}, {Time: second(300), NotAfter: second(420)}}
	if got := Gap(renewals, 0); got != 30*time.Second {
		t.Errorf("the gap is %s, want 30 s", got)
	}
	if got := Gap(renewals, time.Minute); got != 0 {
		t.Errorf("with a minute more it is %s, want none", got)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	good := func() *Report {
		return &Report{
			Seed: 7, Duration: 10 * time.Minute, Pods: 30, Minted: 3, Issued: 5, Before: 4, After: 4, Restarts: map[string]int{"broker": 2, "client": 0},
			Phases:  []*Phase{{Start: second(0), Requests: 10}, {Start: second(30), Faults: NewSchedule(1).Next(), Requests: 20, Failed: map[Class]int{Unreachable: 2}}},
			Secrets: []*Phase{{Start: second(0), Requests: 1}, {Start: second(30), Requests: 2}},
		}
	}
	if all := good().Failures(); len(all) > 0 {
		t.Errorf("a good run has the failures %q", all)
	}
	table := good().Table()
	for _, want := range []string{"seed 7, 10m0s, 30 Pods", "calm", "sent 30 requests, and 2 of these failed", "0 requests failed for lack", "broker 2, client 0"} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}
	for name, spoil := range map[string]func(*Report){
		"1 requests of Pods failed without": func(r *Report) { r.Phases[1].Failed[Want] = 1 },
		"of the readers of Secrets failed":  func(r *Report) { r.Secrets[0].Failed = map[Class]int{Refused: 1} },
		"had no credential for 3s":          func(r *Report) { r.Gap = 3 * time.Second },
		"and 9 are left":                    func(r *Report) { r.After = 9 },
		"only 5 were given":                 func(r *Report) { r.Minted = 8 },
		"made no request":                   func(r *Report) { r.Secrets[1].Requests = 0 },
	} {
		r := good()
		spoil(r)
		if all := r.Failures(); len(all) != 1 || !strings.Contains(all[0], name) {
			t.Errorf("want one failure with %q, got %q", name, fmt.Sprint(all))
		}
	}
}

// TestAddRun: each seed has one row, its newest, in the order of the seeds.
func TestAddRun(t *testing.T) {
	t.Parallel()
	run := func(seed uint64, requests int) *Report {
		return &Report{Seed: seed, Duration: 10 * time.Minute, Phases: []*Phase{{Requests: requests, Failed: map[Class]int{Unreachable: 2}, Renewals: 3}}, Secrets: []*Phase{{}}}
	}
	table := run(10, 100).AddRun("", "aaa")
	table = run(9, 200).AddRun(table, "bbb")
	table = run(10, 300).AddRun(table, "ccc")
	want := runsHead + "| 9 | bbb | 10m0s | 200 | 2 | 0 | 3 | 0s |\n| 10 | ccc | 10m0s | 300 | 2 | 0 | 3 | 0s |\n"
	if table != want {
		t.Errorf("the table is\n%s\nwant\n%s", table, want)
	}
}
