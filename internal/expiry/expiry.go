// Package expiry says when a credential ends, as far as the credential itself tells, and when to
// replace it.
//
// It verifies nothing: what it reads comes from a provider that is trusted for it. It imports the
// standard library only.
package expiry

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// Unknown is how long a token that tells nothing is taken to live.
	Unknown = 5 * time.Minute

	// The EKS authenticator takes a presigned URL for 15 minutes, whatever it says itself; one of them
	// is for clocks.
	eksLife = 14 * time.Minute
	// The NCP gateway takes a timestamp for 5 minutes; one of them is for clocks.
	ncpLife = 4 * time.Minute

	// Later times cannot be written in RFC 3339.
	endOfTime = 253402300799
)

// Token returns when a bearer token ends: the exp of a JWT, what the tokens of EKS and NCP say in
// their own ways, and for all others, malformed ones among them, now plus Unknown.
func Token(token string, now time.Time) time.Time {
	for _, read := range []func(string) (time.Time, bool){eks, ncp, jwt} {
		if t, ok := read(token); ok {
			return t
		}
	}
	return now.Add(Unknown)
}

// RefreshAt returns when to replace a credential that was issued and expires at these times. It is
// as late as leaves 20 % of the lifetime and the UrgentPeriod, but never in the first half.
func RefreshAt(issuedAt, notAfter time.Time) time.Time {
	life := notAfter.Sub(issuedAt)
	return issuedAt.Add(max(life/2, min(life/10*8, life-UrgentPeriod)))
}

// UrgentPeriod is the last part of a credential's lifetime. In its last two minutes, tries to
// replace the credential come often enough that a provider that answers for ten seconds is not
// missed. Half a minute comes before them, because a request that was sent earlier may hang for so
// long.
const UrgentPeriod = 150 * time.Second

// Urgent reports whether a credential that expires at notAfter is in its UrgentPeriod. An expired
// credential is not, and neither is the zero time.
func Urgent(now, notAfter time.Time) bool {
	left := notAfter.Sub(now)
	return left > 0 && left <= UrgentPeriod
}

// RetryWait shortens the wait before the next try to replace a credential that expires in
// untilExpiry: it lasts until the UrgentPeriod at most, and for urgent within it. After the expiry,
// wait stays as it is.
func RetryWait(wait, untilExpiry, urgent time.Duration) time.Duration {
	if untilExpiry <= 0 {
		return wait
	}
	return min(wait, max(untilExpiry-UrgentPeriod, urgent))
}

// Due reports whether a time has come, by the wall clock or by the monotonic one, of times that
// have both readings: the wall clock may have been set back since, and the monotonic one stands
// still while a machine is suspended.
func Due(now, at time.Time) bool {
	return !now.Before(at) || !now.Round(0).Before(at.Round(0))
}

// Certificate returns when the first certificate of a PEM chain, the client's own, ends.
func Certificate(chain []byte) (time.Time, error) {
	for {
		var block *pem.Block
		block, chain = pem.Decode(chain)
		if block == nil {
			return time.Time{}, errors.New("there is no PEM certificate in it")
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return time.Time{}, errors.New("its first certificate is malformed")
		}
		return cert.NotAfter, nil
	}
}

func jwt(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		// RFC 7519 allows fractions.
		Expiry *float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Expiry == nil || *claims.Expiry < 0 || *claims.Expiry > endOfTime {
		return time.Time{}, false
	}
	return time.Unix(int64(*claims.Expiry), 0), true
}

// eks reads the time in the presigned URL that a token of EKS is made of.
func eks(token string) (time.Time, bool) {
	encoded, ok := strings.CutPrefix(token, "k8s-aws-v1.")
	if !ok {
		return time.Time{}, false
	}
	decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if err != nil {
		return time.Time{}, false
	}
	u, err := url.Parse(string(decoded))
	if err != nil {
		return time.Time{}, false
	}
	signed, err := time.Parse("20060102T150405Z", u.Query().Get("X-Amz-Date"))
	return signed.Add(eksLife), err == nil
}

// ncp reads the timestamp, in milliseconds, in a token of NCP IAM.
func ncp(token string) (time.Time, bool) {
	encoded, ok := strings.CutPrefix(token, "k8s-ncp-v1.")
	if !ok {
		return time.Time{}, false
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded)
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
	if err != nil || ms < 0 || ms > endOfTime*1000 {
		return time.Time{}, false
	}
	return time.UnixMilli(ms).Add(ncpLife), true
}
