package providers_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keyferry/keyferry/providers"
)

func TestParseServer(t *testing.T) {
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
			got, err := providers.ParseServer(test.in)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if again, err := providers.ParseServer(got.String()); err != nil || again.String() != test.want {
				t.Errorf("parsing the result again: %v, %v", again, err)
			}
		})
	}
}

func TestParseServerRefuses(t *testing.T) {
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
			got, err := providers.ParseServer(in)
			if err == nil {
				t.Errorf("got %s, want an error", got)
			}
		})
	}
}

func TestEndpointOr(t *testing.T) {
	full := providers.Endpoint{Server: "https://a", CertificateAuthority: []byte("a"), TLSServerName: "a", ProxyURL: "http://a"}
	other := providers.Endpoint{Server: "https://b", CertificateAuthority: []byte("b"), TLSServerName: "b", ProxyURL: "http://b"}
	if got := full.Or(other); !got.Equal(full) {
		t.Errorf("a full endpoint became %v", got)
	}
	if got := (providers.Endpoint{}).Or(other); !got.Equal(other) {
		t.Errorf("the zero endpoint became %v, want all of the other", got)
	}
	mixed := providers.Endpoint{Server: "https://a"}.Or(other)
	if want := (providers.Endpoint{Server: "https://a", CertificateAuthority: []byte("b"), TLSServerName: "b", ProxyURL: "http://b"}); !mixed.Equal(want) {
		t.Errorf("got %v, want %v", mixed, want)
	}
}

func TestUnavailable(t *testing.T) {
	cause := errors.New("connection refused")
	err := providers.Unavailable(time.Minute, cause)
	if !errors.Is(err, providers.ErrUnavailable) || !errors.Is(err, cause) || providers.RetryAfter(err) != time.Minute {
		t.Errorf("%v wraps too little", err)
	}
	if got := providers.RetryAfter(cause); got != 0 {
		t.Errorf("RetryAfter of another error is %v, want 0", got)
	}
}

func TestShareKey(t *testing.T) {
	one := providers.Request{Identity: providers.Identity{Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "1", PodName: "web-0", PodUID: "a"}}
	other := one
	other.Identity.PodUID = "b"
	if providers.ShareKey(alone{}, one) == providers.ShareKey(alone{}, other) {
		t.Error("two Pods share a credential that is not to be shared")
	}
	if got := providers.ShareKey(shared{}, one); got != "everybody" {
		t.Errorf("got %q, want what the Sharer says", got)
	}
}

type alone struct{}

func (alone) Issue(context.Context, providers.Request) (providers.Credential, error) {
	return providers.Credential{}, providers.ErrRefused
}

type shared struct{ alone }

func (shared) ShareKey(providers.Request) string { return "everybody" }
