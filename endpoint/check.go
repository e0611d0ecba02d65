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

// Reasons of an Error, which conditions and messages show.
const (
	ReasonInvalidEndpoint        = "InvalidEndpoint"
	ReasonAddressRefused         = "AddressRefused"
	ReasonAmbientRefused         = "AmbientRefused"
	ReasonNoCertificateAuthority = "NoCertificateAuthority"
	ReasonDirectNotPossible      = "DirectNotPossible"
)

// Field is a field of an Endpoint, by its name in spec.endpoint of a TargetCluster.
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

// Error says why an endpoint cannot be used, or not by those who ask for it.
type Error struct {
	// Reason is one of the reasons above.
	Reason string
	// Field is the field that is wrong; empty if no single field is.
	Field Field
	// Err says what is wrong, and does not repeat what may be secret.
	Err error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Check returns the endpoint with its Server as Parse writes it, and its Spelling, or an *Error
// that says which field is wrong. An endpoint that has no certificate authority passes.
func (p Policy) Check(e Endpoint) (Endpoint, error) {
	invalid := func(reason string, field Field, err error) (Endpoint, error) {
		return e, &Error{Reason: reason, Field: field, Err: err}
	}
	server, err := Parse(e.Server)
	if err != nil {
		return invalid(ReasonInvalidEndpoint, FieldServer, err)
	}
	e.Spelling, e.Server = cmp.Or(e.Spelling, e.Server), server.String()
	if err := p.CheckHost(server.Hostname()); err != nil {
		return invalid(ReasonAddressRefused, FieldServer, err)
	}
	if e.ProxyURL != "" {
		proxy, err := parseProxy(e.ProxyURL)
		if err != nil {
			return invalid(ReasonInvalidEndpoint, FieldProxyURL, err)
		}
		if err := p.CheckHost(proxy.Hostname()); err != nil {
			return invalid(ReasonAddressRefused, FieldProxyURL, err)
		}
	}
	if err := checkCertificateAuthority(e.CertificateAuthority); err != nil {
		return invalid(ReasonInvalidEndpoint, FieldCertificateAuthority, err)
	}
	return e, nil
}

// parseProxy reads the URL of a proxy. Its errors do not repeat it, it may hold a password.
func parseProxy(proxy string) (*url.URL, error) {
	u, err := url.Parse(proxy)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("is no URL with a host")
	}
	switch u.Scheme {
	case "http", "https", "socks5":
		return u, nil
	}
	return nil, fmt.Errorf("has the scheme %q; http, https and socks5 are allowed", u.Scheme)
}

// checkCertificateAuthority returns an error if clients cannot read a bundle, or if it holds more
// than certificates: every Pod receives it. An empty bundle passes.
func checkCertificateAuthority(bundle []byte) error {
	if len(bundle) > 0 && len(bytes.TrimSpace(bundle)) == 0 {
		return errors.New("holds no certificate")
	}
	for rest := bundle; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return errors.New("holds something that is not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a PEM block %q; only certificates belong there", block.Type)
		}
		if len(block.Headers) > 0 {
			return errors.New("holds a certificate with PEM headers, which clients skip; remove the headers")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return errors.New("holds a malformed certificate")
		}
	}
	return nil
}
