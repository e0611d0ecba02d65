package resolve

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
)

func specEndpoint(cluster *v1alpha1.TargetCluster) providers.Endpoint {
	e := cluster.Spec.Endpoint
	if e == nil {
		return providers.Endpoint{}
	}
	return providers.Endpoint{
		Server:               e.Server,
		CertificateAuthority: e.CertificateAuthorityData,
		TLSServerName:        e.TLSServerName,
		ProxyURL:             e.ProxyURL,
	}
}

// checkEndpoint returns the endpoint with a normalised server, or an *InvalidError. source says where those fields come
// from that the spec does not have; it is empty if they come from nowhere.
func (r *Resolver) checkEndpoint(e providers.Endpoint, source string) (providers.Endpoint, error) {
	invalid := func(reason, field string, err error) (providers.Endpoint, error) {
		where := "spec.endpoint." + field
		if source != "" {
			where += ", or that of " + source
		}
		return e, &InvalidError{Reason: reason, Message: fmt.Sprintf("%s: %v", where, err)}
	}
	if e.Server == "" && source == "" {
		return invalid(ReasonInvalidEndpoint, "server", errors.New("this type of access does not say where the target is: set it, and certificateAuthorityData"))
	}
	if e.Server == "" {
		return invalid(ReasonInvalidEndpoint, "server", errors.New("nothing says where the target is"))
	}
	server, err := endpoint.Parse(e.Server)
	if err != nil {
		return invalid(ReasonInvalidEndpoint, "server", err)
	}
	e.Server = server.String()
	if err := r.checkHost(server.Hostname()); err != nil {
		return invalid(ReasonAddressRefused, "server", err)
	}
	if e.ProxyURL != "" {
		proxy, err := parseProxy(e.ProxyURL)
		if err != nil {
			return invalid(ReasonInvalidEndpoint, "proxyURL", err)
		}
		if err := r.checkHost(proxy.Hostname()); err != nil {
			return invalid(ReasonAddressRefused, "proxyURL", err)
		}
	}
	if err := checkCertificateAuthority(e.CertificateAuthority); err != nil {
		return invalid(ReasonInvalidEndpoint, "certificateAuthorityData", err)
	}
	return e, nil
}

// checkHost refuses addresses that are known to be refused; names are checked when they are dialled.
func (r *Resolver) checkHost(host string) error {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil //nolint:nilerr // a name
	}
	return r.cfg.Egress.Check(addr)
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

// checkCertificateAuthority refuses a bundle that clients could not read, or that holds more than certificates: it is
// given to every Pod.
func checkCertificateAuthority(bundle []byte) error {
	rest := bundle
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return errors.New("holds something that is not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a PEM block %q; only certificates belong there", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return errors.New("holds a malformed certificate")
		}
	}
	return nil
}

// decideDelivery returns how a Pod gets to a checked endpoint, and why.
func decideDelivery(want v1alpha1.Delivery, e providers.Endpoint, certificate bool) (v1alpha1.Delivery, string, error) {
	delivery, reason, err := needs(e, certificate).Delivery(want)
	switch {
	case err != nil:
		return delivery, "", &InvalidError{Reason: ReasonDirectNotPossible, Message: err.Error()}
	case len(e.CertificateAuthority) == 0:
		return delivery, "", &InvalidError{Reason: ReasonNoCertificateAuthority,
			Message: "Pods need a certificate authority to verify the endpoint by, and there is none: set spec.endpoint.certificateAuthorityData"}
	}
	return delivery, reason, nil
}

// DirectObstacle says what in-cluster clients cannot express of a checked endpoint and a credential. It is empty if there is nothing.
func DirectObstacle(e providers.Endpoint, certificate bool) string {
	return needs(e, certificate).Obstacle()
}

func needs(e providers.Endpoint, certificate bool) endpoint.Needs {
	return endpoint.Needs{Server: e.Server, TLSServerName: e.TLSServerName, ProxyURL: e.ProxyURL, ClientCertificate: certificate}
}
