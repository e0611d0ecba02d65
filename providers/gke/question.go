package gke

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/oauth2"

	"github.com/keyferry/keyferry/internal/failure"
	"github.com/keyferry/keyferry/providers"
)

// question is one request for a token.
type question struct {
	// doing begins each message.
	doing string
	// secrets are what goes there, and no message may hold.
	secrets []string
	// refused and missing are what to do if Google refuses, or does not know what it is asked about.
	refused, missing string
	// metadata is set if it is the metadata server that is asked.
	metadata bool
	// get asks, by the client, which ctx has, too.
	get func(ctx context.Context, client *http.Client) (*oauth2.Token, error)
}

// answer asks q.
func (p *Provider) answer(ctx context.Context, q question) (*oauth2.Token, error) {
	transport := p.transport
	if q.metadata {
		transport = p.metadata
	}
	recorder := failure.Record(ctx, transport)
	client := &http.Client{Transport: recorder}
	token, err := q.get(context.WithValue(ctx, oauth2.HTTPClient, client), client)
	if err != nil {
		return nil, p.failed(q, cmp.Or(recorder.Err(), err))
	}
	if token.AccessToken == "" || strings.ContainsFunc(token.AccessToken, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, fmt.Errorf("%w: %s: the answer contains no token, or a token that an HTTP header cannot contain", providers.ErrRefused, q.doing)
	}
	return token, nil
}

// failed tells what kind of failure it is.
func (p *Provider) failed(q question, err error) error {
	answer, ok := errors.AsType[*failure.AnswerError](err)
	if !ok {
		return failure.Unanswered(q.doing, "check what is between the broker and Google", err, q.secrets...)
	}
	code, text := answer.OAuth()
	if q.metadata {
		text = string(answer.Body) // it speaks plain text
	}
	said := answer.Said(code, text, q.secrets...)
	switch {
	case failure.Passing(answer.Code):
		return providers.Unavailable(failure.RetryAfter(answer.Header, p.cfg.Now()), fmt.Errorf("%s: %s", q.doing, said))
	case isMissing(answer.Code, code, text):
		return fmt.Errorf("%w: %s: %s: %s", providers.ErrNotFound, q.doing, said, q.missing)
	}
	return fmt.Errorf("%w: %s: %s: %s", providers.ErrRefused, q.doing, said, q.refused)
}

// isMissing reports whether Google says, in one of its ways, that there is no such thing.
func isMissing(status int, code, text string) bool {
	return status == http.StatusNotFound ||
		code == "invalid_target" || // the pool or the provider
		code == "invalid_grant" && strings.Contains(text, "account not found")
}
