package certificates

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// The lives of certificates. A leaf is signed again after two thirds of its life. The successor of
// an authority comes so early that, after its week of being published, the old one still outlives
// every leaf that it signed.
const (
	authorityLife  = 5 * 365 * 24 * time.Hour
	leafLife       = 90 * 24 * time.Hour
	successorAhead = 120 * 24 * time.Hour
	publishedAhead = 7 * 24 * time.Hour
	// clockSkew is how much earlier than now a certificate begins, for clocks that are late, and for
	// this one when it is set back.
	clockSkew = time.Hour
)

// step is what to do next to the authority.
type step string

const (
	keep     step = "keep"
	replace  step = "replace"  // nothing can be signed: a new authority, at once
	announce step = "announce" // create and publish the successor
	promote  step = "promote"  // the successor signs from now on, the current one is a predecessor
	forget   step = "forget"   // nothing that a predecessor signed is valid any more
)

// plan is what to do now: first the step, with its reason; then, if the step is to keep the
// authority, the leaves.
type plan struct {
	step   step
	reason string
	// sign holds the leaves that need a new certificate, and why.
	sign map[string]string
	// wake is when the next thing will have to be done, should nobody touch anything.
	wake time.Time
}

// decide is the whole policy. Leaves are by the name of their Secret; names are the DNS names that
// each one needs.
func decide(now time.Time, a authority, leaves map[string]leaf, names map[string][]string) plan {
	if step, reason := a.decide(now); step != keep {
		return plan{step: step, reason: reason}
	}
	p := plan{step: keep, sign: map[string]string{}, wake: a.wake()}
	for name, wanted := range names {
		l := leaves[name]
		if reason := l.flaw(now, a, wanted); reason != "" {
			p.sign[name] = reason
		} else if at := renewAt(l.pair.cert); at.Before(p.wake) {
			p.wake = at
		}
	}
	return p
}

func (a authority) decide(now time.Time) (step, string) {
	switch {
	case !a.current.usable(now) && a.next.usable(now):
		return promote, "the current one cannot sign"
	case !a.current.usable(now):
		return replace, a.current.flaw(now)
	case len(a.previous) > 0 && !now.Before(a.previousUntil):
		return forget, "everything that predecessors signed has ended"
	case now.Before(a.successorDue()):
		return keep, ""
	case !a.next.usable(now):
		return announce, "the current one ends at " + a.current.cert.NotAfter.UTC().Format(time.RFC3339)
	case !now.Before(a.promotionDue()):
		return promote, fmt.Sprintf("it has been published for %d days", int(publishedAhead.Hours()/24))
	default:
		return keep, ""
	}
}

func (a authority) successorDue() time.Time { return a.current.cert.NotAfter.Add(-successorAhead) }
func (a authority) promotionDue() time.Time {
	return a.next.cert.NotBefore.Add(clockSkew + publishedAhead)
}

// wake is when an authority that is to be kept needs its next step.
func (a authority) wake() time.Time {
	at := a.successorDue()
	if a.next != nil {
		at = later(at, a.promotionDue())
	}
	if len(a.previous) > 0 && a.previousUntil.Before(at) {
		at = a.previousUntil
	}
	return at
}

// flaw says why an authority that is not usable is not.
func (p *pair) flaw(now time.Time) string {
	switch {
	case p == nil:
		return "there is none"
	case p.key == nil:
		return "its private key is missing or does not fit"
	case now.Before(p.cert.NotBefore):
		return "it begins in the future"
	default:
		return "it has ended"
	}
}

// flaw says why a leaf needs to be signed again; empty: it does not.
func (l leaf) flaw(now time.Time, a authority, names []string) string {
	switch {
	case !l.pair.usable(now):
		return l.pair.flaw(now)
	case !slices.Equal(l.pair.cert.DNSNames, names):
		return "it is for other names"
	case len(l.signers(a.published())) == 0:
		return "no published authority has signed it"
	case !now.Before(renewAt(l.pair.cert)):
		return "two thirds of its life are over"
	default:
		return ""
	}
}

func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
}

// apply does a step. An authority that was lost, not replaced, may live on in the bundle of a leaf
// that it signed: it is published further, so that what serves with that leaf goes on being
// trusted.
func (a authority) apply(s step, now time.Time, leaves map[string]leaf) (authority, error) {
	switch s {
	case replace:
		created, err := newAuthority(now)
		if err != nil {
			return a, err
		}
		lost := a.signersOf(leaves)
		a = a.retire(now)
		a.current = created
		a.previous = distinct(append(lost, a.previous...))
		if len(a.previous) > 0 {
			a.previousUntil = later(a.previousUntil, now.Add(leafLife))
		}
	case announce:
		created, err := newAuthority(now)
		if err != nil {
			return a, err
		}
		a.next = created
	case promote:
		next := a.next
		a = a.retire(now)
		a.current, a.next = next, nil
	case forget:
		a.previous, a.previousUntil = nil, time.Time{}
	case keep:
	}
	return a, nil
}

// retire makes the current authority, if there is one that has not ended, a predecessor.
func (a authority) retire(now time.Time) authority {
	if a.current != nil && now.Before(a.current.cert.NotAfter) {
		a.previous = distinct(append([]*x509.Certificate{a.current.cert}, a.previous...))
		a.previousUntil = later(a.previousUntil, now.Add(leafLife))
	}
	a.current = nil
	return a
}

// signersOf finds the authorities of leaves in the bundles beside them.
func (a authority) signersOf(leaves map[string]leaf) []*x509.Certificate {
	var found []*x509.Certificate
	for _, l := range leaves {
		for _, signer := range l.signers(l.bundle) {
			if isCA(signer) {
				found = append(found, signer)
			}
		}
	}
	slices.SortFunc(found, func(a, b *x509.Certificate) int { return b.NotAfter.Compare(a.NotAfter) })
	return found
}

func distinct(certs []*x509.Certificate) []*x509.Certificate {
	var kept []*x509.Certificate
	for _, c := range certs {
		if !slices.ContainsFunc(kept, c.Equal) {
			kept = append(kept, c)
		}
	}
	return kept
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
