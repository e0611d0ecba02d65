package controller

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/egress"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// Resolver is what is needed of the issuer.
type Resolver interface {
	Resolve(ctx context.Context, cluster *v1alpha1.TargetCluster) (issuer.Resolution, error)
}

// ReasonTLSFailed is the reason of the condition Reachable where the server is not the one that the
// authority speaks for.
const ReasonTLSFailed = "TLSFailed"

const (
	reasonAnswers          = "Answers"
	reasonUnreachable      = "Unreachable"
	reasonTimeout          = "Timeout"
	reasonTLSFailed        = ReasonTLSFailed
	reasonUnauthorized     = "Unauthorized"
	reasonUnexpectedAnswer = "UnexpectedAnswer"
	reasonAddressRefused   = resolve.ReasonAddressRefused
	// reasonAccess precedes the reason of a Failure to get the access credential.
	reasonAccess = "Access"
)

// observe looks at a target once. An error says that nothing could be found out, not even whether
// the TargetCluster makes sense.
func observe(ctx context.Context, r Resolver, policy endpoint.Policy, cluster *v1alpha1.TargetCluster, now time.Time) (observation, error) {
	resolution, err := r.Resolve(ctx, cluster)
	if invalid, ok := errors.AsType[*resolve.InvalidError](err); ok {
		return notResolved(invalid), nil
	}
	if err != nil {
		return observation{}, fmt.Errorf("resolving: %w", err)
	}
	seen := observation{
		resolved:        makesSense(resolution.Warning),
		endpoint:        resolution.Endpoint.Server,
		delivery:        resolution.Delivery,
		deliveryReason:  resolution.DeliveryReason,
		subjectAudience: resolution.SubjectAudience,
	}
	access := providers.Credential{}
	anonymous := resolution.Access == nil || resolution.SubjectAudience != ""
	if !anonymous {
		if access, err = resolution.Access.Issue(ctx, providers.Request{}); err != nil {
			seen.reachable = finding{metav1.ConditionFalse, reasonAccess + issuer.FailureOf(err).Reason, "getting the access credential: " + lasting(err)}
			return seen, nil
		}
	}
	c, err := egress.Client(policy, resolution.Endpoint, access)
	if err != nil {
		seen.reachable = finding{metav1.ConditionFalse, reasonAccess + issuer.ReasonRefused, err.Error()}
		return seen, nil
	}
	defer c.CloseIdleConnections()
	p := probe{client: c, server: resolution.Endpoint.Server, access: access, anonymous: anonymous}
	p.run(ctx, &seen, now)
	if keeper, ok := resolution.Access.(providers.Keeper); ok && seen.reachable.reason == reasonUnauthorized {
		keeper.Rejected(providers.Request{}, access)
	}
	return seen, nil
}

func notResolved(invalid *resolve.InvalidError) observation {
	return observation{
		resolved:  finding{metav1.ConditionFalse, invalid.Reason, invalid.Message},
		reachable: finding{metav1.ConditionUnknown, reasonNotResolved, "the endpoint or the access of the target is not resolved: see the condition Resolved"},
	}
}

func makesSense(warning string) finding {
	if warning != "" {
		return finding{metav1.ConditionTrue, v1alpha1.ReasonResolvedWithWarning, warning}
	}
	return finding{metav1.ConditionTrue, reasonResolved, "the spec and its Secrets are valid"}
}

// probe asks one target, with one credential.
type probe struct {
	client *http.Client
	server string
	access providers.Credential
	// anonymous: there is no credential to be refused, so a 401 is the answer of an API server that
	// talks to nobody unknown.
	anonymous bool
}

// run asks for the version and, if that worked, for the name of the cluster, which may be
// forbidden.
func (p probe) run(ctx context.Context, seen *observation, now time.Time) {
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	code, err := p.get(ctx, "/version", &version)
	seen.reachable = p.judge(code, err, version.GitVersion, now)
	if seen.reachable.status != metav1.ConditionTrue {
		return
	}
	var kubeSystem metav1.PartialObjectMetadata
	code, err = p.get(ctx, "/api/v1/namespaces/kube-system", &kubeSystem)
	if err != nil || code != http.StatusOK && !p.answersWith(code) {
		seen.reachable = p.judge(code, err, "", now)
		return
	}
	seen.answered = true
	seen.serverVersion = version.GitVersion
	seen.clusterUID = kubeSystem.UID
}

// get decodes the answer into `into` if its code is 200.
func (p probe) get(ctx context.Context, path string, into any) (code int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.server+path, http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "keyferry-controller")
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, nil
	}
	return resp.StatusCode, json.NewDecoder(resp.Body).Decode(into)
}

// answersWith reports whether a code that is no success is an answer all the same: 403 says that
// who is asked knows who asks.
func (p probe) answersWith(code int) bool {
	return code == http.StatusForbidden || code == http.StatusUnauthorized && p.anonymous
}

// judge says what an answer means.
func (p probe) judge(code int, err error, version string, now time.Time) finding {
	switch {
	case err != nil:
		reason, fix := failure(err)
		return finding{metav1.ConditionFalse, reason, fmt.Sprintf("%s: %s: %s", p.server, lasting(err), fix)}
	case code == http.StatusOK && version != "":
		return finding{metav1.ConditionTrue, reasonAnswers, fmt.Sprintf("%s answers with version %s%s", p.server, version, p.untried())}
	case p.answersWith(code):
		return finding{metav1.ConditionTrue, reasonAnswers, p.server + " answers, but does not tell its version" + p.untried()}
	case code == http.StatusUnauthorized:
		ended := ""
		if !p.access.NotAfter.IsZero() && p.access.NotAfter.Before(now) {
			ended = ", which ended at " + p.access.NotAfter.UTC().Format(time.RFC3339)
		}
		return finding{metav1.ConditionFalse, reasonUnauthorized, fmt.Sprintf("%s does not accept the access credential%s: renew the credential in spec.access", p.server, ended)}
	default:
		return finding{metav1.ConditionFalse, reasonUnexpectedAnswer, fmt.Sprintf("%s answers %d, so it is not an API server: check the server's URL, and any proxy in front of the server", p.server, code)}
	}
}

// untried says what an answer does not tell.
func (p probe) untried() string {
	if !p.anonymous {
		return ""
	}
	return "; the request had no credential, because only Pods have it"
}

// failure sorts what can go wrong before there is an answer.
func failure(err error) (reason, fix string) {
	var syntax *json.SyntaxError
	var mistyped *json.UnmarshalTypeError
	var timeout net.Error
	var op *net.OpError
	switch {
	case errors.As(err, &syntax), errors.As(err, &mistyped), errors.Is(err, io.EOF):
		return reasonUnexpectedAnswer, "this is not an API server; check the server's URL and any proxy in front of it"
	case isRefused(err):
		return reasonAddressRefused, "set another address in the endpoint's server"
	case errors.As(err, &op) && op.Op == "remote error":
		return reasonUnauthorized, "the target ended the TLS handshake; renew the client certificate in spec.access"
	case isTLS(err):
		return reasonTLSFailed, "check the endpoint's certificateAuthorityData and tlsServerName"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return reasonTimeout, "check the endpoint's server, and whether the network allows Keyferry to connect to it"
	default:
		return reasonUnreachable, "check the endpoint's server, and whether the network allows Keyferry to connect to it"
	}
}

func isRefused(err error) bool {
	_, ok := errors.AsType[*endpoint.AddressError](err)
	return ok
}

func isTLS(err error) bool {
	var verification *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	return errors.As(err, &verification) || errors.As(err, &record)
}

// source matches the near end of a connection in the text of an error.
var source = regexp.MustCompile(`(\d+\.\d+\.\d+\.\d+|\[[0-9A-Fa-z:.%]+\]):\d+->`)

// lasting is the text of an error without what differs from one time to the next, the time of day
// and the number of the local port: a condition that says the same is not written again.
func lasting(err error) string {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return fmt.Sprintf("the server's certificate is valid only from %s to %s",
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return source.ReplaceAllString(err.Error(), "")
}
