package eks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/egress"
)

// A message of AWS is repeated to this length.
const maxMessage = 400

// assuming begins the messages about a role.
func (p *Provider) assuming() string {
	return "assuming role " + p.cfg.RoleARN + " at " + p.endpoint
}

// failure classifies the error of a request to STS and makes it fit to be shown. id is who asked, if that matters; of the
// secrets nothing is shown.
func (p *Provider) failure(err error, id providers.Identity, secrets ...string) error {
	code, said := describe(err, secrets)
	switch {
	case errors.As(err, new(*egress.AddressError)):
		return fmt.Errorf("%w: %s: %s", providers.ErrRefused, p.assuming(), said)
	case code == "" || passes(err, code):
		return providers.Unavailable(p.retryAfter(err), fmt.Errorf("%s: %s", p.assuming(), said))
	}
	if mend := p.mend(code, id); mend != "" {
		said += ": " + mend
	}
	return fmt.Errorf("%w: %s: %s", providers.ErrRefused, p.assuming(), said)
}

// chainFailure is for the SDK's default chain, with identity Ambient.
func (p *Provider) chainFailure(err error) error {
	code, said := describe(err, nil)
	said = "looking for the identity that this process has at AWS: " + said
	var missing config.SharedConfigProfileNotExistError
	switch {
	case errors.As(err, &missing):
		return fmt.Errorf("%w: %s: there is no profile %q", providers.ErrRefused, said, missing.Profile)
	case code != "" && !passes(err, code):
		return fmt.Errorf("%w: %s: look at the IAM role of the ServiceAccount that the process runs as", providers.ErrRefused, said)
	}
	return providers.Unavailable(p.retryAfter(err), fmt.Errorf("%s: give the ServiceAccount that the process runs as an IAM role", said))
}

// describe returns the code that AWS gave, which is empty if AWS gave none, and a sentence. Of errors that are neither
// AWS's nor the network's it says nothing: some repeat what they could not read, and that may be a key.
func describe(err error, secrets []string) (code, said string) {
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() != "UnknownError" {
		return api.ErrorCode(), repeat(api.ErrorCode()+": "+api.ErrorMessage(), secrets)
	}
	var timeout net.Error
	switch outer, ok := errors.AsType[*url.Error](err); {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.As(err, &timeout) && timeout.Timeout():
		return "", "gave up waiting for an answer"
	case ok:
		return "", repeat(outer.Err.Error(), secrets)
	}
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && answer.Response != nil {
		return "", fmt.Sprintf("the answer, %d, is none of AWS: is a proxy in between?", answer.HTTPStatusCode())
	}
	return "", "nothing usable was found"
}

// passes reports whether an error of AWS goes away by itself.
func passes(err error, code string) bool {
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		if status := answer.HTTPStatusCode(); status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
			return true
		}
	}
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	return throttled || code == "IDPCommunicationError" // AWS does not reach the issuer of the Pod's token
}

// mend says what to do about a refusal; empty if AWS's own message must do.
func (p *Provider) mend(code string, id providers.Identity) string {
	workload := p.cfg.Identity == Workload
	keys := "accessKeyID and secretAccessKey in Secret " + p.cfg.Secret
	if p.cfg.Identity == Ambient {
		keys = "the identity of this process"
	}
	switch code {
	case "AccessDenied", "AccessDeniedException":
		if workload {
			return "let the role's trust policy allow sts:AssumeRoleWithWebIdentity to " + id.String()
		}
		return "let the role's trust policy, and a policy of who assumes it, allow sts:AssumeRole"
	case "InvalidIdentityToken", "IDPRejectedClaim":
		return "make the issuer of this cluster's tokens an OIDC provider in the role's account, with the audience " + audience
	case "ExpiredTokenException", "ExpiredToken":
		if p.cfg.Identity == Secret {
			return "renew the keys in Secret " + p.cfg.Secret
		}
		return "check the clocks"
	case "RequestExpired":
		return "check the clocks"
	case "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "IncompleteSignature":
		return "check " + keys + ", and the clocks"
	case "RegionDisabledException":
		return "enable STS in region " + p.cfg.Region + " for the account"
	}
	return ""
}

// repeat makes of AWS's text one short line without secrets.
func repeat(text string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[credential]")
		}
	}
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

// retryAfter reads the header of that name, which is a number of seconds or a date.
func (p *Provider) retryAfter(err error) time.Duration {
	answer, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok || answer.Response == nil {
		return 0
	}
	value := answer.Response.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(p.cfg.Now()))
	}
	return 0
}
