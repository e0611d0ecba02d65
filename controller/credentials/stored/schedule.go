package stored

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"time"

	"github.com/keyferry/keyferry/providers"
)

// ShortestLife is that of a credential in a Secret: under it, nothing would be left after it was
// replaced in time.
const ShortestLife = 10 * time.Minute

const (
	// A credential in a Secret gets to its user late: the kubelet needs up to two minutes to see a new
	// one, the client another to read it again, and the clocks differ. So much of a life is left when
	// it is replaced.
	left = 5 * time.Minute
	// Those who ask for ShortestLife have lost a little on the way.
	lostOnTheWay = 30 * time.Second
	// Later than this a clock cannot be said to agree with another.
	maxSkew = time.Minute
	// How much earlier than it must a credential is replaced, at most, so that many are not at the
	// same time.
	spread = 0.2
)

// LifeOf returns how long a credential that has just been issued lives. What the credential itself
// says of its life counts where that is less than what is left by the clock here: a clock that is
// slow would have it replaced when it has long ended.
func LifeOf(c providers.Credential, now time.Time) time.Duration {
	life := c.NotAfter.Sub(now)
	if stated, ok := statedLife(c); ok {
		life = min(life, stated)
	}
	return life
}

// statedLife is what a JWT or a certificate says: from when to when.
func statedLife(c providers.Credential) (time.Duration, bool) {
	if block, _ := pem.Decode(c.ClientCertificate); block != nil {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return 0, false
		}
		return certificate.NotAfter.Sub(certificate.NotBefore), true
	}
	parts := strings.Split(c.Token, ".")
	if len(parts) != 3 {
		return 0, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0, false
	}
	var claims struct {
		IssuedAt float64 `json:"iat"`
		Expiry   float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.IssuedAt <= 0 || claims.Expiry <= claims.IssuedAt {
		return 0, false
	}
	return time.Duration((claims.Expiry - claims.IssuedAt) * float64(time.Second)), true
}

// LongEnough reports whether a credential with this life can be of use in a Secret.
func LongEnough(life time.Duration) bool { return life >= ShortestLife-lostOnTheWay }

// RenewAfter says how long after it was issued a credential with this life is replaced: as late as
// leaves a fifth of its life, and left, less a share of that by chance, from 0 to 1. maxLife, if it
// is not zero, makes that more frequent.
func RenewAfter(life, maxLife time.Duration, chance float64) time.Duration {
	after := min(life/10*8, life-left)
	if maxLife > 0 {
		after = min(after, maxLife/10*8)
	}
	return after - time.Duration(chance*spread*float64(after))
}
