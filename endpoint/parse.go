// Package endpoint parses and validates the endpoints of API servers. It decides which addresses
// may be connected to, how Pods connect to a server, and which namespaces may use the broker's own
// identity. Broker, controller, webhook and CLI all use it, so that they decide alike.
//
// It imports only the standard library. The packages injector and refresher cannot import it: their
// tests and those of this package use the same test cases, in package endpointtest.
package endpoint

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Parse parses the address of an API server as users and tools write it, and normalizes it to
// https://host:port/path: always with a port (443 is the default), with the host in lower case,
// IPv6 in brackets, and without a slash at the end. An address without a scheme is https, as in
// client-go. The errors contain neither a user nor a query, which may be secret.
func Parse(server string) (*url.URL, error) {
	if server == "" {
		return nil, errors.New("is empty")
	}
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	switch {
	case err != nil:
		return nil, errors.New("is not a URL; it should look like https://203.0.113.7:6443, with brackets around an IPv6 address")
	case u.Scheme != "https":
		return nil, fmt.Errorf("has the scheme %q; only https is allowed", u.Scheme)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("must have no user, query or fragment")
	case hasDotSegment(u.Path):
		return nil, errors.New("has a path with . or .. as a segment; write the path without them")
	}
	host, err := parseHost(u.Hostname())
	if err != nil {
		return nil, err
	}
	port, err := parsePort(u.Port())
	if err != nil {
		return nil, err
	}
	return &url.URL{
		Scheme: "https",
		Host:   net.JoinHostPort(host, port),
		Path:   strings.TrimRight(u.Path, "/"),
	}, nil
}

func parseHost(host string) (string, error) {
	if host == "" {
		return "", errors.New("has no host")
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", fmt.Errorf("has the host %q; an IPv6 zone is valid on one machine only: remove it", host)
		}
		return addr.String(), nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if !isDNSName(host) || endsInNumber(host[strings.LastIndex(host, ".")+1:]) {
		return "", fmt.Errorf("has the host %q, which is neither an IP address nor a DNS name "+
			"(labels of a-z, 0-9 and -, joined by dots; no label begins or ends with -)", host)
	}
	return host, nil
}

// isDNSName reports whether a lower-case host is a DNS name. The refresher accepts the same names,
// because clients in Pods receive them in an environment variable.
func isDNSName(host string) bool {
	if len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
	}
	return true
}

// endsInNumber reports whether some resolvers would interpret a host with this last label as an
// IPv4 address, such as 0x7f.1 or 2852039166
// (https://url.spec.whatwg.org/#ends-in-a-number-checker).
func endsInNumber(label string) bool {
	if strings.Trim(label, "0123456789") == "" {
		return true
	}
	hex, ok := strings.CutPrefix(label, "0x")
	return ok && strings.Trim(hex, "0123456789abcdef") == ""
}

// hasDotSegment reports whether a path has a segment . or .., which could resolve to another path,
// and so to another cluster behind the same server.
func hasDotSegment(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

func parsePort(port string) (string, error) {
	if port == "" {
		return "443", nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("has the port %q, which is not from 1 to 65535", port)
	}
	return strconv.FormatUint(n, 10), nil
}
