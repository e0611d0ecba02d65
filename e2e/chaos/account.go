package chaos

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Class says why a request failed.
type Class string

// The classes of failures.
const (
	// Want is that there was no credential, or that it had ended.
	Want Class = "want"
	// Refused is that the API server did not take a credential that had not ended, as it does for some
	// seconds after its start.
	Refused Class = "refused"
	// Unreachable is everything else: nobody was there to answer.
	Unreachable Class = "unreachable"
)

// Classify says what kind of failure an error is, as client-go prints it. The first words are those
// of the stand-in for the target, which refuses what is too old, and of the sidecar's proxy.
func Classify(message string) Class {
	has := func(part string) bool { return strings.Contains(message, part) }
	switch {
	case has("the token has ended"), has("there is no credential for"), has("the credential for ") && has(" ended at "), has("no such file or directory"):
		return Want
	case has("Unauthorized"), has("asked for the client to provide credentials"), has("is forbidden"):
		return Refused
	}
	return Unreachable
}

// Sample is what a client has counted since its start.
type Sample struct {
	Time      time.Time `json:"time"`
	Requests  int       `json:"requests"`
	Failures  int       `json:"failures"`
	LastError string    `json:"lastError"`
}

// Samples reads a container's log as the node keeps it: each line with its time and stream before
// it.
func Samples(log []byte) []Sample { return read[Sample](log, func(Sample) bool { return true }) }

// Renewal is one of a refresher.
type Renewal struct {
	Time     time.Time `json:"time"`
	Message  string    `json:"msg"`
	NotAfter time.Time `json:"notAfter"`
}

// Renewals reads those in a refresher's log, as the node keeps it.
func Renewals(log []byte) []Renewal {
	return read(log, func(r Renewal) bool { return r.Message == "credential renewed" })
}

func read[T any](log []byte, wanted func(T) bool) (all []T) {
	for line := range strings.Lines(string(log)) {
		// TIME STREAM F TEXT
		fields := strings.SplitN(line, " ", 4)
		var one T
		if len(fields) == 4 && json.Unmarshal([]byte(fields[3]), &one) == nil && wanted(one) {
			all = append(all, one)
		}
	}
	return all
}

// Gap is the longest time in which somebody with these renewals had no credential, if each is good
// until grace after its end.
func Gap(renewals []Renewal, grace time.Duration) (longest time.Duration) {
	renewals = slices.Clone(renewals)
	slices.SortFunc(renewals, func(a, b Renewal) int { return a.Time.Compare(b.Time) })
	for i := 1; i < len(renewals); i++ {
		longest = max(longest, renewals[i].Time.Sub(renewals[i-1].NotAfter.Add(grace)))
	}
	return longest
}

// Phase is a time of the run, and what came of it.
type Phase struct {
	Start  time.Time
	Faults []Fault
	// Requests counts all, Failed those that failed, by class.
	Requests int
	Failed   map[Class]int
	Renewals int
	// Examples has one message of each class.
	Examples map[Class]string
}

// AtStart is how many requests the target's API server refused because it, or its store, had just
// been started.
func (p *Phase) AtStart() int {
	if slices.ContainsFunc(p.Faults, func(f Fault) bool {
		return f.Kind == Kill && (f.Target == "target kube-apiserver" || f.Target == "target etcd")
	}) {
		return p.Failed[Refused]
	}
	return 0
}

// Wanting is how many requests failed without a valid credential.
func (p *Phase) Wanting() int { return p.Failed[Want] + p.Failed[Refused] - p.AtStart() }

// Account gives a client's samples to the phases, which are in the order of time. Samples are those
// of one process.
func Account(phases []*Phase, samples []Sample) {
	var before Sample
	for _, s := range samples {
		p := at(phases, s.Time)
		if p == nil {
			before = s
			continue
		}
		p.Requests += s.Requests - before.Requests
		if n := s.Failures - before.Failures; n > 0 {
			p.fail(s.LastError, n)
		}
		before = s
	}
}

func (p *Phase) fail(message string, n int) {
	if p.Failed == nil {
		p.Failed, p.Examples = map[Class]int{}, map[Class]string{}
	}
	class := Classify(message)
	p.Failed[class] += n
	p.Examples[class] = message
}

// AccountRenewals gives renewals to the phases.
func AccountRenewals(phases []*Phase, renewals []Renewal) {
	for _, r := range renewals {
		if p := at(phases, r.Time); p != nil {
			p.Renewals++
		}
	}
}

// at is the phase of a time, nil before the first one.
func at(phases []*Phase, t time.Time) *Phase {
	i, found := slices.BinarySearchFunc(phases, t, func(p *Phase, t time.Time) int { return p.Start.Compare(t) })
	if !found {
		i--
	}
	if i < 0 {
		return nil
	}
	return phases[i]
}
