package endpoint

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
)

// Reasons of an Error. Conditions and messages show them.
const (
	ReasonInvalidEndpoint        = "InvalidEndpoint"
	ReasonAddressRefused         = "AddressRefused"
	ReasonAmbientRefused         = "AmbientRefused"
	ReasonNoCertificateAuthority = "NoCertificateAuthority"
	ReasonDirectNotPossible      = "DirectNotPossible"
)

// Field is a field of an Endpoint. Its value is the field's name in spec.endpoint of a
// TargetCluster.
type Field string

// The fields of an Endpoint.
const (
	FieldServer               Field = "server"
	FieldCertificateAuthority Field = "certificateAuthorityData"
	FieldTLSServerName        Field = "tlsServerName"
	FieldProxyURL             Field = "proxyURL"
)

// Kubeconfig returns the field's name in the cluster of a kubeconfig or a ClusterProfile.
func (f Field) Kubeconfig() string {
	switch f {
	case FieldCertificateAuthority:
		return "certificate-authority-data"
	case FieldTLSServerName:
		return "tls-server-name"
	case FieldProxyURL:
		return "proxy-url"
	case FieldServer:
	}
	return string(f)
}

// Error reports why an endpoint cannot be used, or cannot be used in a namespace.
type Error struct {
	// Reason is one of the reasons above.
	Reason string
	// Field is the invalid field; empty if the error is not about a single field.
	Field Field
	// Err describes the problem. It does not contain values that may be secret.
	Err error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Check validates an endpoint. It returns the endpoint with Server normalized by Parse, and with
// Spelling set; or an *Error. An endpoint without a CertificateAuthority is valid.
func (p Policy) Check(e Endpoint) (Endpoint, error) {
	invalid := func(reason string, field Field, err error) (Endpoint, error) {
		return e, &Error{Reason: reason, Field: field, Err: err}
	}
	server, err := Parse(e.Server)
	if err != nil {
		return invalid(ReasonInvalidEndpoint, FieldServer, err)
	}
	e.Spelling, e.Server = cmp.Or(e.Spelling, e.Server), server.String()
	if err := p.CheckURL(server); err != nil {
		return invalid(ReasonAddressRefused, FieldServer, err)
	}
	if e.ProxyURL != "" {
		proxy, err := parseProxy(e.ProxyURL)
		if err != nil {
			return invalid(ReasonInvalidEndpoint, FieldProxyURL, err)
		}
		if err := p.CheckURL(proxy); err != nil {
			return invalid(ReasonAddressRefused, FieldProxyURL, err)
		}
	}
	if err := checkCertificateAuthority(e.CertificateAuthority); err != nil {
		return invalid(ReasonInvalidEndpoint, FieldCertificateAuthority, err)
	}
	return e, nil
}

// parseProxy parses the URL of a proxy. Its errors do not contain the URL, which may have a
// password.
func parseProxy(proxy string) (*url.URL, error) {
	u, err := url.Parse(proxy)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("is not a URL with a host")
	}
	switch u.Scheme {
	case "http", "https", "socks5":
		return u, nil
	}
	return nil, fmt.Errorf("has the scheme %q; http, https and socks5 are allowed", u.Scheme)
}

// checkCertificateAuthority returns an error if clients cannot parse a bundle, or if it contains
// anything but certificates: every Pod receives it. An empty bundle is valid.
func checkCertificateAuthority(bundle []byte) error {
	if len(bundle) > 0 && len(bytes.TrimSpace(bundle)) == 0 {
		return errors.New("holds no certificate")
	}
	for rest := bundle; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return errors.New("contains text that is not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("contains a PEM block %q; only certificates are allowed", block.Type)
		}
		if len(block.Headers) > 0 {
			return errors.New("contains a certificate with PEM headers; clients ignore such certificates: remove the headers")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return errors.New("contains a malformed certificate")
		}
	}
	return nil
}
