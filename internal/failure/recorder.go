package failure

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// maxAnswer limits what is read of an error response, in bytes.
const maxAnswer = 64 << 10

var errFailed = errors.New("failed")

// Recorder is the transport for one request by a vendor's library. Such libraries repeat requests,
// ignore the context, and return errors with the whole response of the provider. So the Recorder
// passes only a successful response to the library, and records the failure.
type Recorder struct {
	ctx  context.Context // of the request; some libraries send their requests without
	next http.RoundTripper
	err  error
}

// Record returns a Recorder that uses next until ctx is done. It must not be used concurrently.
func Record(ctx context.Context, next http.RoundTripper) *Recorder {
	return &Recorder{ctx: ctx, next: next}
}

// RoundTrip implements http.RoundTripper. Its error contains no details; Err returns them.
func (r *Recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(req.WithContext(r.ctx))
	if err == nil && resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	if err == nil {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // up to an error
		_ = resp.Body.Close()
		err = &AnswerError{Code: resp.StatusCode, Header: resp.Header, Body: body}
	}
	r.err = err
	return nil, errFailed
}

// Err returns the last failure, or nil. It is an *AnswerError if there was a response.
func (r *Recorder) Err() error { return r.err }

// AnswerError is an unsuccessful response.
type AnswerError struct {
	Code   int
	Header http.Header
	Body   []byte
}

func (a *AnswerError) Error() string { return Status(a.Code) }

// Said returns the status and the provider's message for users, without secrets. code and
// description may be empty.
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

// OAuth parses the body as an error of OAuth 2.0 (RFC 6749, section 5.2) or of a Google API. Both
// results are empty if it is neither.
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
