package certificates

import (
	"bytes"
	"crypto/x509"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var (
	begin = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	names = map[string][]string{
		"broker":  {"broker.ns.svc", "broker.ns.svc.cluster.local", "broker.ns"},
		"webhook": {"webhook.ns.svc", "webhook.ns.svc.cluster.local", "webhook.ns"},
	}
)

const day = 24 * time.Hour

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func authorityAt(t *testing.T, at time.Time) *pair {
	t.Helper()
	return must[*pair](t)(newAuthority(at))
}

func leafAt(t *testing.T, at time.Time, by *pair, names ...string) leaf {
	t.Helper()
	return leaf{pair: must[*pair](t)(newLeaf(at, names, by)), bundle: []*x509.Certificate{by.cert}}
}

func TestDecideAuthority(t *testing.T) {
	first, second := authorityAt(t, begin), authorityAt(t, begin.Add(authorityLife-successorAhead))
	announced := begin.Add(authorityLife - successorAhead)
	tests := []struct {
		name   string
		now    time.Time
		a      authority
		want   step
		reason string
	}{
		{"nothing is there", begin, authority{}, replace, "there is none"},
		{"the key is lost", begin, authority{current: &pair{cert: first.cert}}, replace, "its private key is missing or does not fit"},
		{"the key is lost, a successor is there", announced, authority{current: &pair{cert: first.cert}, next: second}, promote, "the current one cannot sign"},
		{"the current one is lost, a successor is there", announced, authority{next: second}, promote, "the current one cannot sign"},
		{"new", begin, authority{current: first}, keep, ""},
		{"new, by a clock that is late", begin.Add(-10 * time.Minute), authority{current: first}, keep, ""},
		{"as old as can be without a successor", announced.Add(-time.Second), authority{current: first}, keep, ""},
		{"time for a successor", announced, authority{current: first}, announce, "the current one ends at 2031-11-21T12:00:00Z"},
		{"the successor's key is lost", announced.Add(day), authority{current: first, next: &pair{cert: second.cert}}, announce, "the current one ends at 2031-11-21T12:00:00Z"},
		{"the successor is not known long enough", announced.Add(publishedAhead - time.Second), authority{current: first, next: second}, keep, ""},
		{"the successor is known long enough", announced.Add(publishedAhead), authority{current: first, next: second}, promote, "it has been published for 7 days"},
		{"ended while nobody was there", begin.Add(authorityLife), authority{current: first}, replace, "it has ended"},
		{"made by a clock that was wrong", begin.Add(-day), authority{current: first}, replace, "it begins in the future"},
		{"a predecessor is still needed", announced.Add(day), authority{current: second, previous: []*x509.Certificate{first.cert}, previousUntil: announced.Add(day + time.Second)}, keep, ""},
		{"a predecessor is needed no more", announced.Add(day), authority{current: second, previous: []*x509.Certificate{first.cert}, previousUntil: announced.Add(day)}, forget, "everything that predecessors signed has ended"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decide(tt.now, tt.a, nil, nil)
			if got.step != tt.want || got.reason != tt.reason {
				t.Errorf("got %s (%s), want %s (%s)", got.step, got.reason, tt.want, tt.reason)
			}
			if got.step == keep && !got.wake.After(tt.now) {
				t.Errorf("wakes at %s, which is not after now, %s", got.wake, tt.now)
			}
		})
	}
}

func TestDecideLeaf(t *testing.T) {
	current, previous, stranger := authorityAt(t, begin), authorityAt(t, begin.Add(-day)), authorityAt(t, begin)
	a := authority{current: current, previous: []*x509.Certificate{previous.cert}, previousUntil: begin.Add(leafLife)}
	good := leafAt(t, begin, current, names["broker"]...)
	mixed := leaf{pair: &pair{cert: good.pair.cert}}
	tests := []struct {
		name string
		now  time.Time
		leaf leaf
		want string
	}{
		{"nothing is there", begin, leaf{}, "there is none"},
		{"the key is lost", begin, mixed, "its private key is missing or does not fit"},
		{"new", begin, good, ""},
		{"new, by a clock that is late", begin.Add(-10 * time.Minute), good, ""},
		{"signed by the predecessor", begin, leafAt(t, begin.Add(-day), previous, names["broker"]...), ""},
		{"signed by a stranger", begin, leafAt(t, begin, stranger, names["broker"]...), "no published authority has signed it"},
		{"for other names", begin, leafAt(t, begin, current, "other.ns.svc"), "it is for other names"},
		{"before two thirds", begin.Add(59 * day), good, ""},
		{"after two thirds", begin.Add(60 * day), good, "two thirds of its life are over"},
		{"ended", begin.Add(90 * day), good, "it has ended"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := a
			a.previousUntil = tt.now.Add(day)
			got := decide(tt.now, a, map[string]leaf{"broker": tt.leaf}, map[string][]string{"broker": names["broker"]})
			if got.step != keep || got.sign["broker"] != tt.want {
				t.Errorf("step %s, got %q, want %q", got.step, got.sign["broker"], tt.want)
			}
		})
	}
}

// cluster stands for the Secrets, and for what was ever signed and may still be in somebody's
// hands.
type cluster struct {
	t      *testing.T
	secret map[string][]byte
	leaves map[string]map[string][]byte

	published map[string]time.Time // authorities, since when
	signed    []*x509.Certificate  // leaves
	signers   []string             // authorities that ever signed
}

// reconcile does what is to be done, and checks what must hold at any time.
func (c *cluster) reconcile(now time.Time) (wake time.Time) {
	c.t.Helper()
	leaves := map[string]leaf{}
	for name, data := range c.leaves {
		leaves[name] = parseLeaf(data)
	}
	a := parseAuthority(c.secret)
	p := decide(now, a, leaves, names)
	for ; p.step != keep; p = decide(now, a, leaves, names) {
		a = must[authority](c.t)(a.apply(p.step, now, leaves))
	}
	c.secret = must[map[string][]byte](c.t)(a.encode())
	since := map[string]time.Time{}
	for _, cert := range a.published() {
		since[string(cert.Raw)] = now
		if at, ok := c.published[string(cert.Raw)]; ok {
			since[string(cert.Raw)] = at
		}
	}
	c.published = since
	bundle := must[[]byte](c.t)(encodeAll(a.published()))
	for name := range p.sign {
		l := must[*pair](c.t)(newLeaf(now, names[name], a.current))
		cert, key, err := l.encode()
		if err != nil {
			c.t.Fatal(err)
		}
		c.leaves[name] = map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key, caKey: bundle}
		c.signed = append(c.signed, l.cert)
		if signer := string(a.current.cert.Raw); !slices.Contains(c.signers, signer) {
			c.signers = append(c.signers, signer)
			if known := now.Sub(c.published[signer]); len(c.signers) > 1 && known < publishedAhead {
				c.t.Errorf("%s: signed by an authority that has been published for %s only", now, known)
			}
		}
	}
	c.check(now, a)
	return p.wake
}

func (c *cluster) check(now time.Time, a authority) {
	c.t.Helper()
	roots := x509.NewCertPool()
	for _, cert := range a.published() {
		roots.AddCert(cert)
	}
	for _, cert := range c.signed {
		if !now.Before(cert.NotAfter) {
			continue
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: cert.DNSNames[0]}); err != nil {
			c.t.Fatalf("%s: a leaf that is valid until %s: %v", now, cert.NotAfter, err)
		}
	}
	for name, data := range c.leaves {
		if l := parseLeaf(data); !l.pair.usable(now) {
			c.t.Fatalf("%s: leaf %s cannot be served", now, name)
		}
	}
}

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, leaves: map[string]map[string][]byte{}}
}

// TestWholeLife lets twelve years pass, at the pace at which the policy asks to be woken.
func TestWholeLife(t *testing.T) {
	c := newCluster(t)
	end := begin.Add(12 * 365 * day)
	most, rounds := 0, 0
	for now := begin; now.Before(end); rounds++ {
		next := c.reconcile(now)
		if !next.After(now) {
			t.Fatalf("%s: wakes at %s", now, next)
		}
		most = max(most, len(c.published))
		now = next
	}
	if len(c.signers) != 3 {
		t.Errorf("%d authorities have signed in 12 years, want 3", len(c.signers))
	}
	if most != 2 || len(c.published) != 1 {
		t.Errorf("at most %d authorities were published, and %d at the end; want 2 and 1", most, len(c.published))
	}
	if rounds > 200 {
		t.Errorf("%d rounds in 12 years", rounds)
	}
}

// TestNobodyThere: the controller is away for random stretches, and is back before leaves end.
func TestSeldomThere(t *testing.T) {
	c := newCluster(t)
	for now := begin; now.Before(begin.Add(11 * 365 * day)); now = now.Add(29 * day) {
		c.reconcile(now)
	}
	if len(c.signers) != 3 {
		t.Errorf("%d authorities have signed, want 3", len(c.signers))
	}
}

func TestLostAuthorityLivesOnInTheBundle(t *testing.T) {
	c := newCluster(t)
	c.reconcile(begin)
	lost := parseAuthority(c.secret).current.cert
	served := maps.Clone(c.leaves)

	c.secret = nil
	c.reconcile(begin.Add(day)) // checks that the leaves go on being trusted
	a := parseAuthority(c.secret)
	if a.current.cert.Equal(lost) || len(a.previous) != 1 || !a.previous[0].Equal(lost) {
		t.Fatalf("a new authority must sign, and the lost one be published: current %v, previous %v", a.current.cert.Subject, a.previous)
	}
	for name := range served {
		if !bytes.Equal(c.leaves[name][corev1.TLSCertKey], served[name][corev1.TLSCertKey]) {
			t.Errorf("leaf %s was signed anew, before anybody knows the new authority", name)
		}
	}
	c.reconcile(begin.Add(61 * day))
	c.reconcile(begin.Add(day + leafLife))
	if a := parseAuthority(c.secret); len(a.previous) != 0 {
		t.Errorf("the lost authority is still published when all that it signed has ended")
	}
}

func TestAllLostTogetherIsForgotten(t *testing.T) {
	c := newCluster(t)
	c.reconcile(begin)
	c.secret, c.leaves, c.signed, c.signers = nil, map[string]map[string][]byte{}, nil, nil
	c.reconcile(begin.Add(day))
	if a := parseAuthority(c.secret); len(a.previous) != 0 {
		t.Error("a user who deletes all Secrets wants to remove the old authority")
	}
}

func TestGarbageIsRepaired(t *testing.T) {
	for _, key := range []string{currentCert, currentKey} {
		t.Run(strings.ReplaceAll(key, ".", "-"), func(t *testing.T) {
			c := newCluster(t)
			c.reconcile(begin)
			c.secret[key] = []byte("garbage")
			c.reconcile(begin.Add(day))
			if a := parseAuthority(c.secret); !a.current.usable(begin.Add(day)) || len(a.previous) != 1 {
				t.Errorf("not repaired: %+v", a)
			}
		})
	}
	t.Run("leaf", func(t *testing.T) {
		c := newCluster(t)
		c.reconcile(begin)
		c.leaves["broker"][corev1.TLSCertKey] = c.leaves["webhook"][corev1.TLSCertKey]
		c.reconcile(begin.Add(day))
		if l := parseLeaf(c.leaves["broker"]); !slices.Equal(l.pair.cert.DNSNames, names["broker"]) {
			t.Errorf("not repaired: it is for %v", l.pair.cert.DNSNames)
		}
	})
}
