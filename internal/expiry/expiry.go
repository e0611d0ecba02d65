// Package expiry reads when a credential expires from the credential itself, and decides when to
// replace it.
//
// It verifies nothing: it is used for credentials of a provider that is trusted. It imports the
// standard library, and package providers, only.
package expiry

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"time"

	"github.com/keyferry/keyferry/providers"
)

const (
	// Unknown is how long a token that tells nothing is taken to live.
	Unknown = 5 * time.Minute

	// Later times cannot be written in RFC 3339.
	endOfTime = 253402300799
)

// Token returns when a bearer token expires: the exp of a JWT, or the time that the form of the
// token says; for all other tokens, and malformed ones, now plus Unknown.
func Token(token string, now time.Time) time.Time {
	for _, form := range providers.TokenForms() {
		rest, ok := strings.CutPrefix(token, form.Prefix)
		if !ok || form.IssuedAt == nil {
			continue
		}
		if issuedAt, ok := form.IssuedAt(rest); ok {
			return issuedAt.Add(form.Lifetime)
		}
	}
	if t, ok := jwt(token); ok {
		return t
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
