package endpoint_test

import (
	"testing"

	"github.com/keyferry/keyferry/endpoint"
)

func TestOr(t *testing.T) {
	full := endpoint.Endpoint{Server: "https://a", CertificateAuthority: []byte("a"), TLSServerName: "a", ProxyURL: "http://a"}
	other := endpoint.Endpoint{Server: "https://b", CertificateAuthority: []byte("b"), TLSServerName: "b", ProxyURL: "http://b"}
	if got := full.Or(other); !got.Equal(full) {
		t.Errorf("a full endpoint became %v", got)
	}
	if got := (endpoint.Endpoint{}).Or(other); !got.Equal(other) {
		t.Errorf("the zero endpoint became %v, want all of the other", got)
	}
	roots := endpoint.Endpoint{SystemRoots: true}
	if got := roots.Or(other); !got.SystemRoots || got.CertificateAuthority != nil || got.Server != other.Server {
		t.Errorf("an endpoint with the system's roots became %v", got)
	}
	if got := (endpoint.Endpoint{CertificateAuthority: []byte("a")}).Or(roots); got.SystemRoots {
		t.Errorf("an endpoint with a CA became %v", got)
	}
	if got := (endpoint.Endpoint{}).Or(roots); !got.Equal(roots) {
		t.Errorf("the zero endpoint became %v, want the system's roots", got)
	}
	mixed := endpoint.Endpoint{Server: "https://a"}.Or(other)
	if want := (endpoint.Endpoint{Server: "https://a", CertificateAuthority: []byte("b"), TLSServerName: "b", ProxyURL: "http://b"}); !mixed.Equal(want) {
		t.Errorf("got %v, want %v", mixed, want)
	}
}
