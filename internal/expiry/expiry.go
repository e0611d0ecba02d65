// Package expiry reads the expiry of a credential from the credential itself, and decides when to
// replace the credential.
//
// It does not verify credentials, because they come from a trusted provider. It imports only the
// standard library and package providers.
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
	// Unknown is the assumed lifetime of a token whose expiry is not known.
	Unknown = 5 * time.Minute

	// Later times cannot be written in RFC 3339.
	endOfTime = 253402300799
)

// Token returns the expiry of a bearer token: the claim exp of a JWT, or the time in a token of
// another known form. For other and malformed tokens, it is now plus Unknown.
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

// RefreshAt returns when to replace a credential with this issue time and expiry: after 80 % of the
// lifetime, but before the UrgentPeriod, and never in the first half of the lifetime.
func RefreshAt(issuedAt, notAfter time.Time) time.Time {
	life := notAfter.Sub(issuedAt)
	return issuedAt.Add(max(life/2, min(life/10*8, life-UrgentPeriod)))
}

// UrgentPeriod is the last part of a credential's lifetime. In its last two minutes, requests for a
// new credential are frequent enough that a provider which works for only ten seconds is not
// missed. The half minute before them is for an earlier request, which may hang for that time.
const UrgentPeriod = 150 * time.Second

// Urgent reports whether a credential that expires at notAfter is in its UrgentPeriod. An expired
// credential is not, and neither is the zero time.
func Urgent(now, notAfter time.Time) bool {
	left := notAfter.Sub(now)
	return left > 0 && left <= UrgentPeriod
}

// RetryWait shortens the wait before the next request for a credential that replaces one which
// expires in untilExpiry. Before the UrgentPeriod, the wait ends at its start at the latest. In the
// UrgentPeriod, it is at most urgent. After the expiry, wait is unchanged.
func RetryWait(wait, untilExpiry, urgent time.Duration) time.Duration {
	if untilExpiry <= 0 {
		return wait
	}
	return min(wait, max(untilExpiry-UrgentPeriod, urgent))
}

// Due reports whether a time has come by the wall clock or by the monotonic clock. Both matter: the
// wall clock may have been set back, and the monotonic clock stops while a machine is suspended.
func Due(now, at time.Time) bool {
	return !now.Before(at) || !now.Round(0).Before(at.Round(0))
}

// Certificate returns the expiry of the first certificate in a PEM chain, which is the client's.
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
