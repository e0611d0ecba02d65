package issuer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"regexp"

	"github.com/keyferry/keyferry/internal/jwt"
	"github.com/keyferry/keyferry/providers"
)

var plainID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// credentialID is what API servers call the credential in their audit logs, as
// authentication.kubernetes.io/credential-id: JTI=… of a token that has a jti, X509SHA256=… of a
// certificate. Empty if it has no such name.
func credentialID(c providers.Credential) string {
	if block, _ := pem.Decode(c.ClientCertificate); block != nil {
		sum := sha256.Sum256(block.Bytes)
		return "X509SHA256=" + hex.EncodeToString(sum[:])
	}
	claims, err := jwt.Read(c.Token)
	// Whoever made the token chose it, and it ends in logs.
	if err != nil || !plainID.MatchString(claims.ID) {
		return ""
	}
	return "JTI=" + claims.ID
}
