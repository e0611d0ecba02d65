package refresher

import (
	"bytes"
	"encoding/pem"
	"time"
)

// caOverlap is how long certificates that a target no longer names stay published. Clients that read ca.crt again at all
// do so within 5 minutes; until then some verify by the old bundle and some by the new one.
const caOverlap = 10 * time.Minute

// bundle is the certificate authority of a target, as named by the broker and as published to the application: what was
// published before stays until the first renewal that is at least caOverlap after the change.
type bundle struct {
	named, published []byte
	overlapUntil     time.Time
}

// next returns the bundle after the broker named the certificates in named.
func (b bundle) next(named []byte, now time.Time) bundle {
	named = mergePEM(named)
	union := mergePEM(named, b.published)
	switch {
	case len(union) == len(named):
		return bundle{named: named, published: named}
	case !bytes.Equal(named, b.named):
		return bundle{named: named, published: union, overlapUntil: now.Add(caOverlap)}
	case now.Before(b.overlapUntil):
		return bundle{named: named, published: union, overlapUntil: b.overlapUntil}
	default:
		return bundle{named: named, published: named}
	}
}

// mergePEM returns every certificate of bundles once, in order, and nothing else.
func mergePEM(bundles ...[]byte) []byte {
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
