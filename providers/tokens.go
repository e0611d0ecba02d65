package providers

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Prefixes of tokens that are not JWTs.
const (
	EKSTokenPrefix = "k8s-aws-v1."
	NCPTokenPrefix = "k8s-ncp-v1."
	gkeTokenPrefix = "ya29."
)

// A TokenForm describes the tokens of a provider that are not JWTs. It is known without the
// provider, because plugins and Secrets may have such tokens, too.
type TokenForm struct {
	// Prefix begins every token of this form, and nothing else. Tokens are removed from messages by
	// it.
	Prefix string
	// Lifetime is how long a token is used after the time that IssuedAt reads in it: what servers
	// accept, less one minute for clocks that differ.
	Lifetime time.Duration
	// IssuedAt returns the time in a token, without Prefix; false if it is malformed. It is nil if
	// tokens of this form have no time.
	IssuedAt func(token string) (time.Time, bool)
}

// TokenForms returns the forms of tokens that are not JWTs.
func TokenForms() []TokenForm {
	return []TokenForm{
		{EKSTokenPrefix, 14 * time.Minute, eksIssuedAt},
		{NCPTokenPrefix, 4 * time.Minute, ncpIssuedAt},
		{Prefix: gkeTokenPrefix},
	}
}

// eksIssuedAt reads the time in the presigned URL that a token of EKS consists of.
func eksIssuedAt(token string) (time.Time, bool) {
	decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(token, "="))
	if err != nil {
		return time.Time{}, false
	}
	u, err := url.Parse(string(decoded))
	if err != nil {
		return time.Time{}, false
	}
	signed, err := time.Parse("20060102T150405Z", u.Query().Get("X-Amz-Date"))
	return signed, err == nil
}

// maxMillis is the last time that can be written in RFC 3339.
const maxMillis = 253402300799000

// ncpIssuedAt reads the timestamp, in milliseconds, in a token of NCP IAM.
func ncpIssuedAt(token string) (time.Time, bool) {
	decoded, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		return time.Time{}, false
	}
	var claim struct {
		Timestamp string `json:"timestamp"`
	}
	if json.Unmarshal(decoded, &claim) != nil {
		return time.Time{}, false
	}
	ms, err := strconv.ParseInt(claim.Timestamp, 10, 64)
	if err != nil || ms < 0 || ms > maxMillis {
		return time.Time{}, false
	}
	return time.UnixMilli(ms), true
}
