package proxy

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// status contains the fields of an error that clients read.
type status struct {
	Kind, Reason, Message string
	Code                  int
	Details               struct{ RetryAfterSeconds int }
}

// waiting is a proxy without a target, and one authenticated request to it.
type waiting struct {
	*Proxy

	recorder *httptest.ResponseRecorder
	began    time.Time
	answered chan time.Duration
}

// newWaiting sends the request, and returns when it waits or was answered.
func newWaiting(t *testing.T, before ...Problem) *waiting {
	t.Helper()
	id, err := newIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w := &waiting{recorder: httptest.NewRecorder(), began: time.Now(), answered: make(chan time.Duration, 1)}
	w.Proxy = New(Config{
		Cluster: "TargetCluster fleet/tenant-1", Identity: id, Renew: func(context.Context, bool) {}, Dial: new(net.Dialer).DialContext, Log: slog.New(slog.DiscardHandler),
	})
	for _, problem := range before {
		w.Fail(problem)
	}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api", http.NoBody)
	request.Header.Set("Authorization", "Bearer "+id.Token())
	go func() {
		w.ServeHTTP(w.recorder, request)
		w.answered <- time.Since(w.began)
	}()
	synctest.Wait()
	return w
}

// want waits for the response, which must come after the given time.
func (w *waiting) want(t *testing.T, after time.Duration, message, retryAfter string, seconds int) {
	t.Helper()
	if took := <-w.answered; took != after {
		t.Errorf("the answer came after %v, want %v", took, after)
	}
	var got status
	if err := json.Unmarshal(w.recorder.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if w.recorder.Code != http.StatusServiceUnavailable || got.Code != w.recorder.Code || got.Kind != "Status" || got.Reason != "ServiceUnavailable" {
		t.Errorf("%d %+v", w.recorder.Code, got)
	}
	if !strings.HasPrefix(got.Message, message) {
		t.Errorf("the message is %q, want %q", got.Message, message)
	}
	if header := w.recorder.Header().Get("Retry-After"); header != retryAfter || got.Details.RetryAfterSeconds != seconds {
		t.Errorf("Retry-After %q, retryAfterSeconds %d", header, got.Details.RetryAfterSeconds)
	}
}

const none = "there is no credential for TargetCluster fleet/tenant-1"

// TestNoCredential checks that a request soon gets the reason why it cannot be forwarded, and waits
// only if the reason may go away.
func TestNoCredential(t *testing.T) {
	refused := Problem{Reason: "the broker answers 403 Forbidden: no", Refused: true}
	away := Problem{Reason: "asking the broker: connection refused"}
	for name, test := range map[string]func(*testing.T){
		"not asked yet": func(t *testing.T) {
			newWaiting(t).want(t, startTimeout, none+" yet (see the log of ", "1", 0)
		},
		"refused before": func(t *testing.T) {
			refused := refused
			refused.RetryAt = time.Now().Add(12 * time.Second)
			newWaiting(t, refused).want(t, 0, none+": the broker answers 403 Forbidden: no (", "", 13)
		},
		"refused meanwhile": func(t *testing.T) {
			w := newWaiting(t)
			<-time.After(time.Second)
			w.Fail(refused)
			w.want(t, time.Second, none+": the broker answers 403 Forbidden: no (", "", 0)
		},
		"broker cannot be reached": func(t *testing.T) {
			newWaiting(t, away).want(t, startTimeout, none+" yet: asking the broker: connection refused (", "1", 0)
		},
		"no longer refused": func(t *testing.T) {
			newWaiting(t, refused, away).want(t, startTimeout, none+" yet: asking", "1", 0)
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

// TestFirstCredentialIsAwaited checks that a request waits for the broker's first response.
func TestFirstCredentialIsAwaited(t *testing.T) {
	world, target := newWorld(t, func(http.ResponseWriter, *http.Request) {})
	issued := world.target(target, "token")
	late := New(world.proxy.config)
	late.Fail(Problem{Reason: "the broker is not there yet"})
	recorder, done := httptest.NewRecorder(), make(chan struct{})
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api", http.NoBody)
	request.Header.Set("Authorization", "Bearer "+world.proxy.config.Identity.Token())
	go func() {
		late.ServeHTTP(recorder, request)
		close(done)
	}()
	late.Set(issued)
	<-done
	if recorder.Code != http.StatusOK {
		t.Errorf("%d %s", recorder.Code, recorder.Body)
	}
}
