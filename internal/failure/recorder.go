package failure

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// Of an answer that is no success.
const maxAnswer = 64 << 10

var errFailed = errors.New("failed")

// Recorder is the transport for one question that a vendor's library asks for us. Such libraries
// ask again by themselves, forget the context, and make of an error a text with all that the
// provider said in it. So nothing but a success gets to the library, and what really happened is
// kept here.
type Recorder struct {
	ctx  context.Context // of the question; some libraries make their requests without
	next http.RoundTripper
	err  error
}

// Record returns a Recorder that asks by next until ctx ends. It must not be used concurrently.
func Record(ctx context.Context, next http.RoundTripper) *Recorder {
	return &Recorder{ctx: ctx, next: next}
}

// RoundTrip asks. What it returns as an error tells the library nothing; Err does, an *AnswerError
// if there was one.
func (r *Recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req.WithContext(r.ctx))
	if err == nil && resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	if err == nil {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // as far as it came
		_ = resp.Body.Close()
		err = &AnswerError{Code: resp.StatusCode, Header: resp.Header, Body: body}
	}
	r.err = err
	return nil, errFailed
}

// Err returns the last failure; nil if there was none.
func (r *Recorder) Err() error { return r.err }

// AnswerError is an answer that is no success.
type AnswerError struct {
	Code   int
	Header http.Header
	Body   []byte
}

func (a *AnswerError) Error() string { return Status(a.Code) }

// Said is the status and what the provider said in the body, fit to be shown. Both may be empty.
func (a *AnswerError) Said(code, description string, secrets ...string) string {
	said := Status(a.Code)
	if code != "" {
		said += ": " + Show(code, secrets...)
	}
	if description != "" {
		said += ": " + Show(description, secrets...)
	}
	return said
}

// OAuth reads the body as an error of OAuth 2.0 (RFC 6749, section 5.2) or of a Google API. Both
// are empty if it is neither.
func (a *AnswerError) OAuth() (code, description string) {
	var body struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
	}
	if json.Unmarshal(a.Body, &body) != nil {
		return "", ""
	}
	if json.Unmarshal(body.Error, &code) == nil {
		return code, body.Description
	}
	var api struct {
		Status  string `json:"status"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(body.Error, &api)
	return api.Status, cmp.Or(api.Message, body.Description)
}
