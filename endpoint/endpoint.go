package endpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
)

// Endpoint is the address of an API server and the settings to connect to it. Unknown fields are
// zero.
type Endpoint struct {
	// Server is an https URL.
	Server string
	// Spelling is Server as the user wrote it, before Check normalized it, for programs that compare
	// the text, such as Argo CD. It is empty if it is not known.
	Spelling string
	// CertificateAuthority is a PEM bundle.
	CertificateAuthority []byte
	// SystemRoots verifies the server with the CA certificates of the system. CertificateAuthority is
	// then empty, or contains the certificates of the system that returned the endpoint.
	SystemRoots bool
	// TLSServerName is the name to verify in the certificate, if it is not the host of Server.
	TLSServerName string
	// ProxyURL is an http, https or socks5 URL.
	ProxyURL string
}

// Or returns e with its zero fields set from other.
func (e Endpoint) Or(other Endpoint) Endpoint {
	if e.Server == "" {
		e.Server, e.Spelling = other.Server, other.Spelling
	}
	if !e.Has(FieldCertificateAuthority) {
		e.CertificateAuthority, e.SystemRoots = other.CertificateAuthority, other.SystemRoots
	}
	if e.TLSServerName == "" {
		e.TLSServerName = other.TLSServerName
	}
	if e.ProxyURL == "" {
		e.ProxyURL = other.ProxyURL
	}
	return e
}

// Has reports whether a field of e is set. SystemRoots counts as a CertificateAuthority.
func (e Endpoint) Has(field Field) bool {
	switch field {
	case FieldServer:
		return e.Server != ""
	case FieldCertificateAuthority:
		return len(e.CertificateAuthority) > 0 || e.SystemRoots
	case FieldTLSServerName:
		return e.TLSServerName != ""
	case FieldProxyURL:
		return e.ProxyURL != ""
	}
	return false
}

// Digest returns a hash. Two endpoints have the same hash if and only if they are Equal.
func (e Endpoint) Digest() string {
	digest := sha256.New()
	for _, field := range []string{e.Server, string(e.CertificateAuthority), strconv.FormatBool(e.SystemRoots), e.TLSServerName, e.ProxyURL} {
		fmt.Fprintf(digest, "%q", field)
	}
	return hex.EncodeToString(digest.Sum(nil))
}

// Equal reports whether two endpoints are the same for a client, which means that all fields but
// Spelling are equal.
func (e Endpoint) Equal(other Endpoint) bool {
	return e.Server == other.Server && e.SystemRoots == other.SystemRoots && e.TLSServerName == other.TLSServerName && e.ProxyURL == other.ProxyURL &&
		bytes.Equal(e.CertificateAuthority, other.CertificateAuthority)
}
