package aks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/failure"
)

// Codes by which Entra says that there is no such application, or tenant
// (https://learn.microsoft.com/entra/identity-platform/reference-error-codes).
var missing = []int{700016, 90002, 900021}

// passing is what Entra has codes for, rather than status codes: that it is busy, or one of its own parts does not answer.
var passing = []int{50196, 90033, 90006, 90024, 90055}

// traces differ in each answer. Without them a message says the same as long as it means the same.
var traces = regexp.MustCompile(`\s*(Trace ID|Correlation ID|Timestamp): .*`)

// ask asks Entra for a token.
func (p *Provider) ask(ctx context.Context, req providers.Request) (azcore.AccessToken, error) {
	recorder := failure.Record(ctx, p.transport)
	credential, err := p.app.credential(req, azcore.ClientOptions{
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: p.authority},
		Transport: recorder,
		Retry:     policy.RetryOptions{MaxRetries: -1}, // who calls tries again, and knows when
	})
	if err != nil {
		return azcore.AccessToken{}, fmt.Errorf("%w: %s: %s", providers.ErrRefused, p.doing(), failure.Show(err.Error(), p.secrets(req)...))
	}
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
	switch {
	case err != nil:
		return azcore.AccessToken{}, p.failed(req, recorder.Err(), err)
	case token.Token == "" || strings.ContainsFunc(token.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return azcore.AccessToken{}, fmt.Errorf("%w: %s: the answer has no token that can be sent", providers.ErrRefused, p.doing())
	}
	return token, nil
}

// doing begins each message.
func (p *Provider) doing() string {
	return "asking Entra at " + p.authority + " for a token of application " + p.app.client + " in tenant " + p.app.tenant
}

func (p *Provider) secrets(req providers.Request) []string {
	return []string{p.app.secret, req.SubjectToken}
}

// failed tells what kind of failure it is, of what was recorded and of what the library says.
func (p *Provider) failed(req providers.Request, recorded, err error) error {
	secrets := p.secrets(req)
	answer, ok := errors.AsType[*failure.AnswerError](recorded)
	if !ok {
		if recorded == nil { // an answer that the library does not understand, which it repeats from the second line on
			line, _, _ := strings.Cut(err.Error(), "\n")
			err = errors.New(line)
		}
		return failure.Unanswered(p.doing(), "check what is between the broker and Entra", cmp.Or(recorded, err), secrets...)
	}
	code, description := answer.OAuth()
	said := answer.Said(code, traces.ReplaceAllString(description, ""), secrets...)
	var body struct {
		Codes []int `json:"error_codes"`
	}
	_ = json.Unmarshal(answer.Body, &body)
	says := func(codes []int) bool {
		return slices.ContainsFunc(body.Codes, func(code int) bool { return slices.Contains(codes, code) })
	}
	switch {
	case failure.Passing(answer.Code) || says(passing):
		return providers.Unavailable(failure.RetryAfter(answer.Header, p.cfg.Now()), fmt.Errorf("%s: %s", p.doing(), said))
	case answer.Code == http.StatusNotFound || says(missing):
		return fmt.Errorf("%w: %s: %s: check %s", providers.ErrNotFound, p.doing(), said, p.app.names(p.cfg.Secret))
	}
	return fmt.Errorf("%w: %s: %s: %s", providers.ErrRefused, p.doing(), said, p.app.mend(p.cfg.Secret))
}
