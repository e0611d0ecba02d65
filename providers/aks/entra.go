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

	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"

	"github.com/keyferry/keyferry/internal/failure"
	"github.com/keyferry/keyferry/providers"
)

// Codes by which Entra says that there is no such application, or tenant
// (https://learn.microsoft.com/entra/identity-platform/reference-error-codes).
var missing = []int{700016, 90002, 900021}

// passing is what Entra has codes for, rather than status codes: that it is busy, or one of its own
// parts does not answer.
var passing = []int{50196, 90033, 90006, 90024, 90055}

// traces differ in each answer. Without them a message says the same as long as it means the same.
var traces = regexp.MustCompile(`\s*(Trace ID|Correlation ID|Timestamp): .*`)

// noRegion has MSAL ask the authority that it is told of, whatever MSAL_FORCE_REGION says in the
// environment of this process.
const noRegion = "DisableMsalForceRegion"

// ask asks Entra for a token. It does so by MSAL, which azidentity is a layer upon: that one takes
// the region, and with it the host that secrets go to, from the environment of this process, and
// cannot be told otherwise.
func (p *Provider) ask(ctx context.Context, req providers.Request) (confidential.AuthResult, error) {
	recorder := failure.Record(ctx, p.transport)
	credential, err := p.app.credential(req)
	if err != nil {
		return confidential.AuthResult{}, p.refused(req, err)
	}
	options := []confidential.Option{
		confidential.WithHTTPClient(&http.Client{Transport: recorder}),
		confidential.WithAzureRegion(noRegion),
		// It asks a host of the public cloud whether the authority is one. Which it may be, New has
		// checked.
		confidential.WithInstanceDiscovery(false),
	}
	if p.app.key != nil {
		// With the chain, certificates can be trusted by their subject and issuer, and renewed without
		// telling Entra.
		options = append(options, confidential.WithX5C())
	}
	client, err := confidential.New(p.authority.String()+"/"+p.app.tenant, p.app.client, credential, options...)
	if err != nil {
		return confidential.AuthResult{}, p.refused(req, err)
	}
	token, err := client.AcquireTokenByCredential(ctx, []string{scope})
	switch {
	case err != nil:
		return confidential.AuthResult{}, p.failed(req, recorder.Err(), err)
	case token.AccessToken == "" || strings.ContainsFunc(token.AccessToken, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return confidential.AuthResult{}, fmt.Errorf("%w: %s: the answer contains no token, or a token that an HTTP header cannot contain", providers.ErrRefused, p.doing())
	}
	return token, nil
}

func (p *Provider) refused(req providers.Request, err error) error {
	return fmt.Errorf("%w: %s: %s", providers.ErrRefused, p.doing(), failure.Show(err.Error(), p.secrets(req)...))
}

// doing begins each message.
func (p *Provider) doing() string {
	return "asking Entra at " + p.authority.String() + " for a token of application " + p.app.client + " in tenant " + p.app.tenant
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
	return fmt.Errorf("%w: %s: %s: %s", providers.ErrRefused, p.doing(), said, p.app.fix(p.cfg.Secret))
}
