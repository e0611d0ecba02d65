package broker

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/keyferry/keyferry/broker/wire"
)

// TestSystemRootsAreHashedOnce: each Pod sends a request every minute, and the response is mostly
// the same.
func TestSystemRootsAreHashedOnce(t *testing.T) {
	b := &Broker{}
	roots := bytes.Repeat([]byte("root"), 64<<10)
	answer := func(token string, ca []byte) wire.ExecCredential {
		return wire.ExecCredential{
			Spec:   wire.Spec{Cluster: wire.Cluster{CertificateAuthorityData: ca, Config: wire.Config{SystemRoots: true}}},
			Status: wire.Status{Token: token},
		}
	}
	tag := func(token string, ca []byte) string {
		t.Helper()
		tag, err := b.etag(answer(token, ca))
		if err != nil {
			t.Fatal(err)
		}
		return tag
	}
	first := tag("a", roots)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const polls = 100
	for range polls {
		if tag("a", roots) != first {
			t.Fatal("the tag of the same answer changes")
		}
	}
	runtime.ReadMemStats(&after)
	if bytes := (after.TotalAlloc - before.TotalAlloc) / polls; bytes > uint64(len(roots))/4 {
		t.Errorf("an unchanged poll allocates %d bytes, of %d of the bundle", bytes, len(roots))
	}
	if sum := b.systemRoots.of(roots); &sum[0] != &b.systemRoots.of(roots)[0] {
		t.Error("the bundle is hashed for each poll")
	}
	changed := bytes.Clone(roots)
	changed[0] = 'x'
	if tag("b", roots) == first || tag("a", changed) == first {
		t.Error("another answer has the same tag")
	}
	if tag("a", bytes.Clone(roots)) != first {
		t.Error("another broker, with the same bundle, has another tag")
	}
}
