package endpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
)

// Endpoint says where an API server is, and what it takes to connect to it. Fields that are not
// known are zero.
type Endpoint struct {
	// Server is an https URL.
	Server string
	// Spelling is the server as its owner wrote it, before Check normalised it, for programs that
	// compare the text, such as Argo CD. Empty: not known.
	Spelling string
	// CertificateAuthority is a PEM bundle.
	CertificateAuthority []byte
	// SystemRoots has the server verified by the CA certificates of the system that connects to it, or
	// that hands the endpoint on: then CertificateAuthority is empty, or these certificates.
	SystemRoots bool
	// TLSServerName is the name to verify the certificate for, if it is not the host of Server.
	TLSServerName string
	// ProxyURL is an http, https or socks5 URL.
	ProxyURL string
}

// Or returns e with the fields that are zero taken from other.
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

// Has reports whether e has a field. SystemRoots counts as a CertificateAuthority.
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

// Digest returns a text that two endpoints have in common if they are Equal, and no others.
func (e Endpoint) Digest() string {
	digest := sha256.New()
	for _, field := range []string{e.Server, string(e.CertificateAuthority), strconv.FormatBool(e.SystemRoots), e.TLSServerName, e.ProxyURL} {
		fmt.Fprintf(digest, "%q", field)
	}
	return hex.EncodeToString(digest.Sum(nil))
}

// Equal reports whether two endpoints are the same to a client: all fields but Spelling are the
// same.
func (e Endpoint) Equal(other Endpoint) bool {
	return e.Server == other.Server && e.SystemRoots == other.SystemRoots && e.TLSServerName == other.TLSServerName && e.ProxyURL == other.ProxyURL &&
		bytes.Equal(e.CertificateAuthority, other.CertificateAuthority)
}
