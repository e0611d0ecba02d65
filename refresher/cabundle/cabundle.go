// Package cabundle changes the CA of a server without errors for running clients: for some time,
// clients get both the old and the new CA.
package cabundle

import (
	"bytes"
	"encoding/pem"
	"time"
)

// Overlap is the shortest time for which a removed certificate stays published. Clients that
// re-read their CA do so within 5 minutes; until then some use the old bundle and some the new one.
const Overlap = 10 * time.Minute

// Bundle contains the current CA of a server, and the CA certificates that clients get. The zero
// value contains no certificates.
type Bundle struct {
	named, published []byte
	overlapUntil     time.Time
}

// Published returns a Bundle with a known published bundle and an unknown current CA.
func Published(published []byte) Bundle {
	return Bundle{published: published}
}

// PEM returns the bundle to publish. It contains only certificates, each once.
func (b Bundle) PEM() []byte {
	return b.published
}

// Next returns the bundle for a new current CA. The certificates that were published before stay
// published until the first call that is Overlap or more after the change.
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

// merge returns the certificates of all bundles in order, each once, without other PEM blocks.
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
