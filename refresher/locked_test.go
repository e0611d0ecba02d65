package refresher

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// lock has the broker answer as to a Pod that is locked.
func (b *fakeBroker) lock(locked bool) {
	b.set(func() {
		b.refuse, b.message = 0, ""
		if locked {
			b.refuse, b.message = http.StatusLocked, "Pod app/web-0 is locked by Lock app/incident-7: stolen laptop"
		}
	})
}

// TestLockedProxy: the proxy drops a credential that is locked, and so does a restarted sidecar;
// unlocked, the Pod works on without a restart.
func TestLockedProxy(t *testing.T) {
	inProxyBubble(t, func(t *testing.T, w *world) {
		w.serveAPI("127.0.0.1:6443", "target", w.current)
		p := w.start()
		w.wantAnswer("target/api")
		w.broker.lock(true)
		pass(time.Minute)
		wantLocked := func(when string) {
			t.Helper()
			if code, body := w.asApplication(); code != http.StatusServiceUnavailable || !strings.Contains(body, "is locked by Lock app/incident-7: stolen laptop") {
				t.Errorf("%s: %d %s", when, code, body)
			}
		}
		wantLocked("locked")
		if message := w.terminationMessage(); !strings.Contains(message, "the broker answers 423 Locked: Pod app/web-0 is locked") {
			t.Errorf("termination message %q", message)
		}
		if files, err := os.ReadDir(w.config.ProxyDir); err != nil || strings.Contains(names(files), ".json") {
			t.Errorf("the directory of the proxy holds %s, %v", names(files), err)
		}

		// Neither an outage of the broker nor a restart brings the credential back.
		w.broker.set(func() { w.broker.down = true })
		pass(time.Minute)
		if code, _ := w.asApplication(); code != http.StatusServiceUnavailable {
			t.Errorf("while the broker is down: %d", code)
		}
		p.stop()
		if err := p.ended(); err != nil {
			t.Fatal(err)
		}
		w.broker.set(func() { w.broker.down = false })
		p = w.start()
		wantLocked("after a restart")

		w.broker.lock(false)
		pass(time.Minute)
		w.wantAnswer("target/api")
		p.stop()
	})
}

func names(entries []os.DirEntry) string {
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// TestOtherRefusalsDropNothing: a broker that refuses for another reason, or fails, takes no valid
// credential away.
func TestOtherRefusalsDropNothing(t *testing.T) {
	for _, code := range []int{http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable} {
		inProxyBubble(t, func(_ *testing.T, w *world) {
			w.serveAPI("127.0.0.1:6443", "target", w.current)
			p := w.start()
			w.broker.set(func() { w.broker.refuse, w.broker.message = code, "no" })
			pass(5 * time.Minute)
			w.wantAnswer("target/api")
			p.stop()
		})
	}
}

// TestLockedDirect: with direct delivery the files stay, since clients that find none may use the
// local cluster.
func TestLockedDirect(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		p := w.start()
		before := w.file("token")
		w.broker.lock(true)
		pass(2 * time.Minute)
		if got := w.file("token"); got != before {
			t.Errorf("the token is %q, was %q", got, before)
		}
		p.stop()
	})
}
