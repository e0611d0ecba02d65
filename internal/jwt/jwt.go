// Package jwt reads the claims of JSON Web Tokens (RFC 7519). It does not verify tokens.
package jwt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
)

// Claims are claims of a token. A claim that the token does not have is zero.
type Claims struct {
	ID       string   `json:"jti"`
	Subject  string   `json:"sub"`
	Audience Audience `json:"aud"`
	// IssuedAt is in seconds since 1970.
	IssuedAt float64 `json:"iat"`
}

// Read returns the claims of a token. Its errors do not contain the token.
func Read(token string) (Claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return Claims{}, errors.New("it is not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return Claims{}, errors.New("it is not a JWT")
	}
	var claims Claims
	// The decoder's error is not returned, because it quotes its input.
	if json.Unmarshal(payload, &claims) != nil {
		return Claims{}, errors.New("its claims cannot be read")
	}
	return claims, nil
}

// Audience is the claim aud: a string or a list of them (section 4.1.3).
type Audience []string

// UnmarshalJSON reads both forms.
func (a *Audience) UnmarshalJSON(raw []byte) error {
	if bytes.HasPrefix(raw, []byte("[")) {
		return json.Unmarshal(raw, (*[]string)(a))
	}
	*a = Audience{""}
	return json.Unmarshal(raw, &(*a)[0])
}
