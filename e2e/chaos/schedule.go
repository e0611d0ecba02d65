// Package chaos decides what goes wrong in a run in which everything does, and gives account of
// what came of it.
package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults, by what Target names.
const (
	Kill   Kind = "kill"   // a program
	Cut    Kind = "cut"    // a pair of parties that cannot reach each other
	Loss   Kind = "loss"   // a pair between which a third of all packets is lost
	Delay  Kind = "delay"  // a party to which packets come late
	Source Kind = "source" // the trouble that a source of credentials has
)

// Fault is one thing that goes wrong.
type Fault struct {
	Kind   Kind
	Target string
	// Pick is which one, where there are several: modulo how many there are.
	Pick uint
}

func (f Fault) String() string { return fmt.Sprintf("%s %s", f.Kind, f.Target) }

// Programs are what is killed. A refresher is one of a Pod, and of those several are killed at
// once.
func Programs() []string {
	return []string{
		"refreshers", "webhook", "broker", "leader",
		"management kube-apiserver", "target kube-apiserver", "management etcd", "target etcd", "management kubelet", "target kubelet",
	}
}

// Pairs are the parties that talk to each other, as ONE-OTHER.
func Pairs() []string {
	return []string{"pods-broker", "pods-target", "broker-apiserver", "broker-source", "broker-target", "controller-apiserver", "controller-target", "webhook-apiserver"}
}

// Parties are those to which packets can be late.
func Parties() []string {
	return []string{"broker", "webhook", "controller", "source", "target", "apiserver"}
}

// Troubles are those of a source.
func Troubles() []string {
	return []string{"slow", "silent", "throttled", "broken", "garbage", "endless", "ended"}
}

// Schedule gives one phase after the other, and always the same ones for a seed. In each, one
// program is killed, a source has a trouble, and two things are wrong with the network; each fault
// comes once before any comes again.
type Schedule struct {
	random                    *rand.Rand
	programs, network, source deck
}

// NewSchedule returns that of a seed.
func NewSchedule(seed uint64) *Schedule {
	s := &Schedule{random: rand.New(rand.NewPCG(seed, seed))} //nolint:gosec // what is wanted is that it can be repeated
	s.programs.all = faults(Kill, Programs())
	s.source.all = faults(Source, Troubles())
	for kind, targets := range map[Kind][]string{Cut: Pairs(), Loss: Pairs(), Delay: Parties()} {
		s.network.all = append(s.network.all, faults(kind, targets)...)
	}
	s.network.sort()
	return s
}

// Next is what goes wrong at once in the next phase.
func (s *Schedule) Next() []Fault {
	first := s.network.deal(s.random)
	second := s.network.deal(s.random)
	return []Fault{s.programs.deal(s.random), first, second, s.source.deal(s.random)}
}

// Name says in words what goes wrong.
func Name(faults []Fault) string {
	if len(faults) == 0 {
		return "calm"
	}
	names := make([]string, 0, len(faults))
	for _, f := range faults {
		names = append(names, f.String())
	}
	return strings.Join(names, ", ")
}

func faults(kind Kind, targets []string) []Fault {
	all := make([]Fault, 0, len(targets))
	for _, target := range targets {
		all = append(all, Fault{Kind: kind, Target: target})
	}
	return all
}
