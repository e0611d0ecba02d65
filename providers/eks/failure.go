package eks

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keyferry/keyferry/internal/failure"
	"github.com/keyferry/keyferry/providers"
)

// assuming begins the messages about a role.
func (p *Provider) assuming() string {
	return "assuming role " + p.cfg.RoleARN + " at " + p.endpoint
}

// failure classifies the error of a request to STS and makes it fit to be shown. id is who asked,
// if that matters; of the secrets nothing is shown.
func (p *Provider) failure(err error, id providers.Identity, secrets ...string) error {
	code, said := ofAWS(err, secrets)
	switch {
	case code == "":
		return p.unanswered(p.assuming(), err, secrets)
	case passes(err, code):
		return providers.Unavailable(p.retryAfter(err), fmt.Errorf("%s: %s", p.assuming(), said))
	}
	if fix := p.fix(code, said, id); fix != "" {
		said += ": " + fix
	}
	return fmt.Errorf("%w: %s: %s", providers.ErrRefused, p.assuming(), said)
}

// chainFailure is for the SDK's default chain, with identity Ambient.
func (p *Provider) chainFailure(err error) error {
	const doing = "looking for the identity that this process has at AWS"
	var missing config.SharedConfigProfileNotExistError
	if errors.As(err, &missing) {
		return fmt.Errorf("%w: %s: there is no profile %q", providers.ErrRefused, doing, missing.Profile)
	}
	code, said := ofAWS(err, nil)
	switch {
	case code == "":
		return p.unanswered(doing, err, nil)
	case passes(err, code):
		return providers.Unavailable(p.retryAfter(err), fmt.Errorf("%s: %s", doing, said))
	}
	return fmt.Errorf("%w: %s: %s: check the IAM role of the program's ServiceAccount", providers.ErrRefused, doing, said)
}

// ofAWS returns the code that AWS gave, and with it what it said; both are empty if it is not AWS
// that answered.
func ofAWS(err error, secrets []string) (code, said string) {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok || api.ErrorCode() == "UnknownError" {
		return "", ""
	}
	return api.ErrorCode(), failure.Show(api.ErrorCode()+": "+api.ErrorMessage(), secrets...)
}

// unanswered is for errors that are not AWS's. Of those that are not the network's either nothing
// is repeated: some quote what the SDK could not read, and that may be a key.
func (p *Provider) unanswered(doing string, err error, secrets []string) error {
	_, network := errors.AsType[*url.Error](err)
	if network || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return failure.Unanswered(doing, "is there a proxy in between that has a certificate of its own?", err, secrets...)
	}
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && answer.Response != nil {
		return providers.Unavailable(p.retryAfter(err), fmt.Errorf("%s: the answer, %s, does not come from AWS: check whether a proxy sent it", doing, failure.Status(answer.HTTPStatusCode())))
	}
	return providers.Unavailable(0, fmt.Errorf("%s: there are no AWS credentials: give an IAM role to the program's ServiceAccount", doing))
}

// passes reports whether an error of AWS goes away by itself.
func passes(err error, code string) bool {
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		if failure.Passing(answer.HTTPStatusCode()) {
			return true
		}
	}
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	return throttled || code == "IDPCommunicationError" // AWS does not reach the issuer of the Pod's token
}

// fix says what to do about a refusal with this code and message; empty if AWS's own message must
// do.
func (p *Provider) fix(code, said string, id providers.Identity) string {
	workload := p.cfg.Identity == Workload
	keys := "accessKeyID and secretAccessKey in Secret " + p.cfg.Secret
	if p.cfg.Identity == Ambient {
		keys = "the identity of this process"
	}
	switch code {
	case "AccessDenied", "AccessDeniedException":
		if strings.Contains(said, "sts:TagSession") {
			return "let the role's trust policy allow sts:TagSession, too: who assumes it has session tags, as with EKS Pod Identity"
		}
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

// retryAfter is what AWS, or a proxy, asks for.
func (p *Provider) retryAfter(err error) time.Duration {
	answer, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok || answer.Response == nil {
		return 0
	}
	return failure.RetryAfter(answer.Response.Header, p.cfg.Now())
}
