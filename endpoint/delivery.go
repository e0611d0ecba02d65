package endpoint

import (
	"fmt"
	"strings"
)

// Delivery is how Pods get to an API server.
type Delivery string

// The deliveries. Auto is a request only: Deliver answers Direct or Proxy.
const (
	Auto   Delivery = "Auto"
	Direct Delivery = "Direct"
	Proxy  Delivery = "Proxy"
)

// Deliver returns how Pods get to an endpoint that Policy.Check returned, Direct or Proxy, and why,
// in a sentence. requested is spec.delivery of a TargetCluster; empty is Auto. clientCertificate
// says that the credential is a client certificate and not a token. The error, an *Error, says that
// Direct was requested and is not possible.
func Deliver(requested Delivery, e Endpoint, clientCertificate bool) (delivery Delivery, reason string, err error) {
	obstacle := Obstacle(e, clientCertificate)
	switch {
	case requested == Proxy:
		return Proxy, "spec.delivery asks for it", nil
	case obstacle == "":
		return Direct, "in-cluster clients can express the endpoint and the credential", nil
	case requested == Direct:
		return Direct, "", &Error{Reason: ReasonDirectNotPossible, Err: fmt.Errorf("spec.delivery Direct is not possible: %s: use Auto or Proxy", obstacle)}
	default:
		return Proxy, obstacle, nil
	}
}

// Obstacle returns what of an endpoint and its credential in-cluster clients cannot express, which
// have a host, a port, a token and a CA. It is empty if they can express all of it.
func Obstacle(e Endpoint, clientCertificate bool) string {
	server, err := Parse(e.Server)
	switch {
	case err != nil:
		return "the server " + err.Error()
	case server.Path != "":
		return "in-cluster clients cannot express the path " + server.Path + " of the server"
	case e.ProxyURL != "":
		return "in-cluster clients cannot express a proxyURL"
	case e.TLSServerName != "" && !strings.EqualFold(e.TLSServerName, server.Hostname()):
		return "in-cluster clients cannot express the tlsServerName " + e.TLSServerName + ", which is not the server's host"
	case clientCertificate:
		return "in-cluster clients present tokens, and the credential is a client certificate"
	}
	return ""
}
