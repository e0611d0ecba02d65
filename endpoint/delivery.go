package endpoint

import (
	"fmt"
	"strings"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// Needs is what it takes to get to an API server, and into it.
type Needs struct {
	// Server is as Parse writes it.
	Server        string
	TLSServerName string
	ProxyURL      string
	// ClientCertificate says that what is presented there is one, rather than a token.
	ClientCertificate bool
}

// Delivery returns how Pods get there, Direct or Proxy, and why, in a sentence. What is wanted is of spec.delivery; empty is Auto. An error says
// that it is not possible.
func (n Needs) Delivery(want v1alpha1.Delivery) (delivery v1alpha1.Delivery, reason string, err error) {
	obstacle := n.Obstacle()
	switch {
	case want == v1alpha1.DeliveryProxy:
		return v1alpha1.DeliveryProxy, "spec.delivery asks for it", nil
	case obstacle == "":
		return v1alpha1.DeliveryDirect, "in-cluster clients can express the endpoint and the credential", nil
	case want == v1alpha1.DeliveryDirect:
		return v1alpha1.DeliveryDirect, "", fmt.Errorf("spec.delivery Direct is not possible: %s: use Auto or Proxy", obstacle)
	default:
		return v1alpha1.DeliveryProxy, obstacle, nil
	}
}

// Obstacle says what in-cluster clients, which have a host, a port, a token and a CA, cannot express. It is empty if there
// is nothing.
func (n Needs) Obstacle() string {
	server, err := Parse(n.Server)
	switch {
	case err != nil:
		return "the server " + err.Error()
	case server.Path != "":
		return "in-cluster clients cannot express the path " + server.Path + " of the server"
	case n.ProxyURL != "":
		return "in-cluster clients cannot express a proxyURL"
	case n.TLSServerName != "" && !strings.EqualFold(n.TLSServerName, server.Hostname()):
		return "in-cluster clients cannot express the tlsServerName " + n.TLSServerName + ", which is not the server's host"
	case n.ClientCertificate:
		return "in-cluster clients present tokens, and the credential is a client certificate"
	}
	return ""
}
