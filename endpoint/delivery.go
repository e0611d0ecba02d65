package endpoint

import (
	"fmt"
	"strings"
)

// Delivery is how Pods connect to an API server.
type Delivery string

// The deliveries. Auto can only be requested: Deliver returns Direct or Proxy.
const (
	Auto   Delivery = "Auto"
	Direct Delivery = "Direct"
	Proxy  Delivery = "Proxy"
)

// Deliver returns the delivery for an endpoint that Policy.Check returned, Direct or Proxy, and the
// reason as a sentence. requested is spec.delivery of a TargetCluster; empty means Auto.
// clientCertificate reports whether the credential is a client certificate and not a token. Deliver
// returns an *Error if Direct is requested but not possible.
func Deliver(requested Delivery, e Endpoint, clientCertificate bool) (delivery Delivery, reason string, err error) {
	obstacle := Obstacle(e, clientCertificate)
	switch {
	case requested == Proxy:
		return Proxy, "spec.delivery is Proxy", nil
	case obstacle == "":
		return Direct, "in-cluster clients support the endpoint and the credential", nil
	case requested == Direct:
		return Direct, "", &Error{Reason: ReasonDirectNotPossible, Err: fmt.Errorf("spec.delivery Direct is not possible: %s: use Auto or Proxy", obstacle)}
	default:
		return Proxy, obstacle, nil
	}
}

// Obstacle returns why in-cluster clients cannot use an endpoint and its credential directly: their
// configuration has only a host, a port, a token and a CA. It is empty if they can.
func Obstacle(e Endpoint, clientCertificate bool) string {
	server, err := Parse(e.Server)
	switch {
	case err != nil:
		return "the server " + err.Error()
	case server.Path != "":
		return "in-cluster clients do not support the path " + server.Path + " of the server"
	case e.ProxyURL != "":
		return "in-cluster clients do not support a proxyURL"
	case e.TLSServerName != "" && !strings.EqualFold(e.TLSServerName, server.Hostname()):
		return "in-cluster clients do not support the tlsServerName " + e.TLSServerName + ", which is not the server's host"
	case clientCertificate:
		return "in-cluster clients use tokens, but the credential is a client certificate"
	}
	return ""
}
