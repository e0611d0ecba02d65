package refresher

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// endpoint is the address of an API server in the in-cluster configuration: a host (IPv6 without
// brackets) and a port. It is normalized, so endpoints can be compared.
type endpoint struct {
	host, port string
}

// String returns the endpoint as a URL.
func (e endpoint) String() string {
	return "https://" + net.JoinHostPort(e.host, e.port)
}

// env returns the file with the variables KUBERNETES_SERVICE_*. The kubelet requires single quotes
// around values. Host and port cannot contain any.
func (e endpoint) env() []byte {
	return fmt.Appendf(nil, "KUBERNETES_SERVICE_HOST='%s'\nKUBERNETES_SERVICE_PORT='%s'\nKUBERNETES_SERVICE_PORT_HTTPS='%s'\n",
		e.host, e.port, e.port)
}

// parseEndpoint parses the URL of an API server. It returns an error if the URL has more than the
// in-cluster configuration supports.
func parseEndpoint(server string) (endpoint, error) {
	u, err := url.Parse(server)
	if err != nil {
		return endpoint{}, fmt.Errorf("parsing the server's URL: %w", err)
	}
	switch {
	case u.Scheme != "https":
		return endpoint{}, fmt.Errorf("server %q: in-cluster clients need https://", server)
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.ForceQuery, u.Fragment != "", u.User != nil:
		return endpoint{}, fmt.Errorf("server %q: in-cluster clients support only a host and a port", server)
	}
	host, err := parseHost(u.Hostname())
	if err != nil {
		return endpoint{}, fmt.Errorf("server %q: %w", server, err)
	}
	port := "443"
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return endpoint{}, fmt.Errorf("server %q: the port must be from 1 to 65535", server)
		}
		port = strconv.FormatUint(n, 10)
	}
	return endpoint{host: host, port: port}, nil
}

// parseHost normalizes an IP address or DNS name. The result needs no quoting anywhere.
func parseHost(host string) (string, error) {
	if strings.Contains(host, ":") {
		addr, err := netip.ParseAddr(host)
		if err != nil || addr.Zone() != "" {
			return "", fmt.Errorf("host %q is not an address that another node could use", host)
		}
		return addr.String(), nil
	}
	if !isName(host, 253) {
		return "", fmt.Errorf("host %q is neither an address nor a DNS name", host)
	}
	return strings.ToLower(host), nil
}

// isName reports whether s is a DNS name of at most limit characters.
func isName(s string, limit int) bool {
	if len(s) > limit {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if !isAlphanumeric(c) && c != '-' {
				return false
			}
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// isObjectName reports whether s is a valid name of a Kubernetes object.
func isObjectName(s string) bool {
	return isName(s, 253) && s == strings.ToLower(s)
}

// isNamespace reports whether s is a valid name of a namespace.
func isNamespace(s string) bool {
	return isObjectName(s) && len(s) <= 63 && !strings.Contains(s, ".")
}
