package failure_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/internal/failure"
)

func TestShow(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"secret":           {"you said planted.", "you said [credential]."},
		"JWT":              {`token "eyJhbGci.eyJzdWIi.c2ln-_" is bad`, `token "[credential]" is bad`},
		"unsigned JWT":     {"eyJhbGci.eyJzdWIi.", "[credential]"},
		"part of a JWT":    {"eyJhbGci.eyJzdWIi", "[credential]"},
		"nothing of a JWT": {"eye.to.eye", "eye.to.eye"},
		"lines":            {"a\r\n\tb\x00\x1b[31mc", "a b [31mc"},
		"long":             {strings.Repeat("ä", 300), strings.Repeat("ä", 200) + "…"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := failure.Show(test.text, "", "planted"); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestOAuth(t *testing.T) {
	for name, test := range map[string]struct{ body, code, text string }{
		"OAuth":              {`{"error":"invalid_grant","error_description":"no"}`, "invalid_grant", "no"},
		"code alone":         {`{"error":"invalid_grant"}`, "invalid_grant", ""},
		"API":                {`{"error":{"code":403,"message":"no","status":"PERMISSION_DENIED"}}`, "PERMISSION_DENIED", "no"},
		"description alone":  {`{"error_description":"no"}`, "", "no"},
		"something else":     {`{"error":[1]}`, "", ""},
		"something in lines": {"no\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if code, text := (&failure.AnswerError{Body: []byte(test.body)}).OAuth(); code != test.code || text != test.text {
				t.Errorf("got %q, %q", code, text)
			}
		})
	}
}

func TestRecorder(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var code int
		_, _ = fmt.Sscan(req.URL.Path[1:], &code)
		w.Header().Set("Location", "/200")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "said")
	}))
	t.Cleanup(s.Close)
	for code, good := range map[int]bool{200: true, 201: true, 302: false, 400: false, 503: false} {
		r := failure.Record(t.Context(), http.DefaultTransport)
		resp, err := (&http.Client{Transport: r}).Get(fmt.Sprintf("%s/%d", s.URL, code))
		if (err == nil) != good || (r.Err() == nil) != good {
			t.Errorf("%d: the library is told %v, and we %v", code, err, r.Err())
		}
		if good {
			_ = resp.Body.Close()
			continue
		}
		answer, ok := errors.AsType[*failure.AnswerError](r.Err())
		if !ok || answer.Code != code || string(answer.Body) != "said" || answer.Header.Get("Location") == "" {
			t.Errorf("%d: recorded %+v", code, r.Err())
		}
		if strings.Contains(err.Error(), "said") {
			t.Errorf("the library is told what the provider said: %v", err)
		}
	}
}

// TestRecorderEnds: with its own context, whatever that of the request is.
func TestRecorderEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := failure.Record(ctx, http.DefaultTransport)
	resp, err := (&http.Client{Transport: r}).Get("http://127.0.0.1:1")
	if err == nil {
		_ = resp.Body.Close()
	}
	if !errors.Is(r.Err(), context.Canceled) {
		t.Errorf("got %v, recorded %v", err, r.Err())
	}
}
