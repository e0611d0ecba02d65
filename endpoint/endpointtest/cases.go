package endpointtest

import (
	"encoding/pem"
	"strings"

	"github.com/keyferry/keyferry/endpoint"
)

// Case is an endpoint of an object, and the result that every program must have for it.
type Case struct {
	Endpoint endpoint.Endpoint

	// Rejected is a part of the message if the endpoint is rejected; empty if it is accepted.
	Rejected string
	// Server is the server of an accepted endpoint as endpoint.Parse returns it.
	Server string
	// Host and Port are what clients in Pods receive with direct delivery; empty if the endpoint needs
	// delivery by proxy.
	Host, Port string
}

// Cases returns the cases by name.
func Cases() map[string]Case {
	cases := map[string]Case{
		"CA with a comment": bundle("# of the target\n"+CertificateAuthority, ""),
		"two CAs":           bundle(CertificateAuthority+CertificateAuthority, ""),
		"CA only of blanks": bundle(" \n", "holds no certificate"),
		"CA that is no PEM": bundle("certificate", "not PEM"),
		"CA cut off":        bundle(CertificateAuthority+CertificateAuthority[:100], "not PEM"),
		"CA with a key":     bundle(CertificateAuthority+block("PRIVATE KEY", nil), `PEM block "PRIVATE KEY"`),
		"CA malformed":      bundle(block("CERTIFICATE", nil), "malformed certificate"),
		"CA with headers":   bundle(block("CERTIFICATE", map[string]string{"a": "b"}), "PEM headers"),

		"TLS server name":        needsProxy(endpoint.Endpoint{TLSServerName: "api.example.com"}),
		"proxy":                  needsProxy(endpoint.Endpoint{ProxyURL: "http://proxy.example.com:3128"}),
		"proxy with https":       needsProxy(endpoint.Endpoint{ProxyURL: "https://proxy.example.com"}),
		"proxy with socks5":      needsProxy(endpoint.Endpoint{ProxyURL: "socks5://user:planted@proxy.example.com"}),
		"proxy with ftp":         badProxy("ftp://proxy.example.com", `scheme "ftp"`),
		"proxy without a scheme": badProxy("proxy.example.com:3128", "not a URL with a host"),
		"proxy without a host":   badProxy("http://:3128", "not a URL with a host"),
		"proxy that is no URL":   badProxy("http://user:planted@proxy.example.com:port", "not a URL with a host"),
		"proxy that is local":    badProxy("http://127.0.0.1:3128", "loopback"),
		"proxy that is metadata": badProxy("http://169.254.169.254", "link-local"),
		"TLS server name that is the host": {
			Endpoint: endpoint.Endpoint{Server: "https://api.example.com", TLSServerName: "API.example.com"},
			Server:   "https://api.example.com:443", Host: "api.example.com", Port: "443",
		},
	}

	for server, at := range map[string][2]string{
		"https://203.0.113.7:6443":         {"203.0.113.7", "6443"},
		"https://203.0.113.7:6443/":        {"203.0.113.7", "6443"},
		"HTTPS://API.Example.COM":          {"api.example.com", "443"},
		"api.example.com:6443":             {"api.example.com", "6443"},
		"https://api.example.com.:6443":    {"api.example.com", "6443"},
		"https://api.example.com:06443":    {"api.example.com", "6443"},
		"https://kubernetes":               {"kubernetes", "443"},
		"https://0--0.1a":                  {"0--0.1a", "443"},
		"https://[2001:DB8:0::7]:6443":     {"2001:db8::7", "6443"},
		"https://[2001:db8::7]":            {"2001:db8::7", "443"},
		"https://[::ffff:203.0.113.7]":     {"::ffff:203.0.113.7", "443"},
		"https://" + label63 + ".example":  {label63 + ".example", "443"},
		"https://" + name253 + ":65535":    {name253, "65535"},
		"https://203.0.113.7.example.com/": {"203.0.113.7.example.com", "443"},
	} {
		cases[server] = direct(server, at[0], at[1])
	}
	for server, normalized := range map[string]string{
		"https://rancher.example.com/k8s/clusters/c-1/": "https://rancher.example.com:443/k8s/clusters/c-1",
		"https://rancher.example.com/k8s/..c-1/ü":       "https://rancher.example.com:443/k8s/..c-1/%C3%BC",
	} {
		cases[server] = Case{Endpoint: endpoint.Endpoint{Server: server}, Server: normalized}
	}
	for server, message := range map[string]string{
		"":                                   "is empty",
		"http://api.example.com":             `scheme "http"`,
		"https://user:planted@a.example":     "no user, query or fragment",
		"https://a.example?planted":          "no user, query or fragment",
		"https://a.example?":                 "no user, query or fragment",
		"https://a.example#planted":          "no user, query or fragment",
		"https://:6443":                      "has no host",
		"https://a.example:0":                "not from 1 to 65535",
		"https://a.example:65536":            "not from 1 to 65535",
		"https://a.example:https":            "is not a URL",
		"https://2001:db8::7":                "is not a URL",
		"https://[fe80::1%25eth0]":           "IPv6 zone",
		"https://2852039166":                 "neither an IP address nor a DNS name",
		"https://0xa9fea9fe":                 "neither an IP address nor a DNS name",
		"https://127.1":                      "neither an IP address nor a DNS name",
		"https://0177.0.0.1":                 "neither an IP address nor a DNS name",
		"https://a b.example":                "is not a URL",
		"https://a.example\n":                "is not a URL",
		"https://a%0ab.example":              "is not a URL",
		"https://a$.example":                 "neither an IP address nor a DNS name",
		"https://it's.example":               "neither an IP address nor a DNS name",
		"https://ü.example":                  "neither an IP address nor a DNS name",
		"https://api_server.example":         "neither an IP address nor a DNS name",
		"https://_":                          "neither an IP address nor a DNS name",
		"https://-a.b":                       "neither an IP address nor a DNS name",
		"https://a-.b":                       "neither an IP address nor a DNS name",
		"https://a..b":                       "neither an IP address nor a DNS name",
		"https://.a":                         "neither an IP address nor a DNS name",
		"https://" + label63 + "a.example":   "neither an IP address nor a DNS name",
		"https://a" + name253:                "neither an IP address nor a DNS name",
		"https://rancher.example/k8s/../c-1": ". or .. as a segment",
		"https://rancher.example/k8s/%2e":    ". or .. as a segment",
		"https://rancher.example/k8s%2f..":   ". or .. as a segment",
		"https://127.0.0.1:6443":             "loopback",
		"https://[::1]:6443":                 "loopback",
		"https://0.0.0.0:6443":               "loopback",
		"https://[::ffff:127.0.0.1]":         "loopback",
		"https://169.254.169.254":            "link-local",
		"https://[fe80::1]":                  "link-local",
	} {
		cases["rejected: "+server] = Case{Endpoint: endpoint.Endpoint{Server: server}, Rejected: message}
	}
	for name, c := range cases {
		if c.Endpoint.CertificateAuthority == nil {
			c.Endpoint.CertificateAuthority = []byte(CertificateAuthority)
		}
		cases[name] = c
	}
	return cases
}

// The longest label and the longest name in DNS.
var (
	label63 = strings.Repeat("a", 63)
	name253 = strings.Repeat(label63+".", 3) + label63[:61]
)

const plainServer = "https://203.0.113.7:6443"

func direct(server, host, port string) Case {
	normalized := "https://" + host + ":" + port
	if strings.Contains(host, ":") {
		normalized = "https://[" + host + "]:" + port
	}
	return Case{Endpoint: endpoint.Endpoint{Server: server}, Server: normalized, Host: host, Port: port}
}

func bundle(authority, rejected string) Case {
	c := direct(plainServer, "203.0.113.7", "6443")
	c.Endpoint.CertificateAuthority = []byte(authority)
	if rejected != "" {
		return Case{Endpoint: c.Endpoint, Rejected: rejected}
	}
	return c
}

func needsProxy(e endpoint.Endpoint) Case {
	e.Server = plainServer
	return Case{Endpoint: e, Server: plainServer}
}

func badProxy(proxy, rejected string) Case {
	return Case{Endpoint: endpoint.Endpoint{Server: plainServer, ProxyURL: proxy}, Rejected: rejected}
}

// block returns a PEM block. With headers, its content is that of CertificateAuthority; otherwise
// the content is arbitrary.
func block(kind string, headers map[string]string) string {
	b := &pem.Block{Type: kind, Bytes: []byte("nothing")}
	if headers != nil {
		b, _ = pem.Decode([]byte(CertificateAuthority))
		b.Headers = headers
	}
	return string(pem.EncodeToMemory(b))
}
