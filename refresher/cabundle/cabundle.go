// Package cabundle lets the certificate authority of a server change while clients go on: old and
// new overlap.
package cabundle

import (
	"bytes"
	"encoding/pem"
	"time"
)

// Overlap is how long certificates that are no longer named stay published at least. Clients that
// read their CA again at all do so within 5 minutes; until then some verify by the old bundle and
// some by the new one.
const Overlap = 10 * time.Minute

// Bundle is a certificate authority as it was last named, and as it is published. The zero value is
// that of a server that nobody trusts yet.
type Bundle struct {
	named, published []byte
	overlapUntil     time.Time
}

// Published returns the bundle of which all that is known is that it is published.
func Published(published []byte) Bundle {
	return Bundle{published: published}
}

// PEM returns what to publish: certificates only, each once.
func (b Bundle) PEM() []byte {
	return b.published
}

// Next returns the bundle after named was named. What was published before stays published until
// the first call that is Overlap or more after the change.
func (b Bundle) Next(named []byte, now time.Time) Bundle {
	named = merge(named)
	union := merge(named, b.published)
	switch {
	case len(union) == len(named):
		return Bundle{named: named, published: named}
	case !bytes.Equal(named, b.named):
		return Bundle{named: named, published: union, overlapUntil: now.Add(Overlap)}
	case now.Before(b.overlapUntil):
		return Bundle{named: named, published: union, overlapUntil: b.overlapUntil}
	default:
		return Bundle{named: named, published: named}
	}
}

// merge returns every certificate of bundles once, in order, and nothing else.
func merge(bundles ...[]byte) []byte {
	var merged bytes.Buffer
	seen := map[string]bool{}
	for _, rest := range bundles {
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" || seen[string(block.Bytes)] {
				continue
			}
			seen[string(block.Bytes)] = true
			merged.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		}
	}
	return merged.Bytes()
}
