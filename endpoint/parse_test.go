package endpoint_test

import (
	"testing"

	"github.com/keyferry/keyferry/endpoint"
)

func TestParse(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"port":              {"https://203.0.113.7:6443", "https://203.0.113.7:6443"},
		"no port":           {"https://api.example.com", "https://api.example.com:443"},
		"no scheme":         {"api.example.com:6443", "https://api.example.com:6443"},
		"slash at the end":  {"https://api.example.com:6443/", "https://api.example.com:6443"},
		"path":              {"https://rancher.example.com/k8s/clusters/c-1/", "https://rancher.example.com:443/k8s/clusters/c-1"},
		"upper case":        {"HTTPS://API.Example.COM", "https://api.example.com:443"},
		"IPv6":              {"https://[2001:DB8::7]:6443", "https://[2001:db8::7]:6443"},
		"IPv6, no port":     {"https://[2001:db8::7]", "https://[2001:db8::7]:443"},
		"root-dotted name":  {"https://api.example.com.:6443", "https://api.example.com:6443"},
		"port with zeros":   {"https://api.example.com:0443", "https://api.example.com:443"},
		"single-label name": {"https://kubernetes", "https://kubernetes:443"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := endpoint.Parse(test.in)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if again, err := endpoint.Parse(got.String()); err != nil || again.String() != test.want {
				t.Errorf("parsing the result again: %v, %v", again, err)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"empty":                "",
		"http":                 "http://api.example.com",
		"user":                 "https://user:planted@api.example.com",
		"query":                "https://api.example.com?planted",
		"empty query":          "https://api.example.com?",
		"fragment":             "https://api.example.com#planted",
		"no host":              "https://:6443",
		"port 0":               "https://api.example.com:0",
		"port too high":        "https://api.example.com:65536",
		"port name":            "https://api.example.com:https",
		"IPv6 unbracketed":     "https://2001:db8::7",
		"IPv6 zone":            "https://[fe80::1%25eth0]",
		"decimal IPv4":         "https://2852039166",
		"hexadecimal IPv4":     "https://0xa9fea9fe",
		"short IPv4":           "https://127.1",
		"octal-looking IPv4":   "https://0177.0.0.1",
		"blank":                "https://api example.com",
		"control character":    "https://api.example.com\n",
		"characters of a path": "https://api$.example.com",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := endpoint.Parse(in)
			if err == nil {
				t.Errorf("got %s, want an error", got)
			}
		})
	}
}
