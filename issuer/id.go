package issuer

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"regexp"
	"strings"

	"github.com/keyferry/keyferry/providers"
)

var plainID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// credentialID is what API servers call the credential in their audit logs, as authentication.kubernetes.io/credential-id:
// JTI=… of a token that has a jti, X509SHA256=… of a certificate. Empty if it has no such name.
func credentialID(c providers.Credential) string {
	if block, _ := pem.Decode(c.ClientCertificate); block != nil {
		sum := sha256.Sum256(block.Bytes)
		return "X509SHA256=" + hex.EncodeToString(sum[:])
	}
	var claims struct {
		ID string `json:"jti"`
	}
	// Whoever made the token chose it, and it ends in logs.
	if !readClaims(c.Token, &claims) || !plainID.MatchString(claims.ID) {
		return ""
	}
	return "JTI=" + claims.ID
}

// readClaims reads what a token says if it is a JWT, without asking whether that is true.
func readClaims(token string, into any) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	return err == nil && json.Unmarshal(payload, into) == nil
}
