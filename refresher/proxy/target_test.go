package proxy

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func mustParse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// keyPair returns a client certificate and its key.
func keyPair(t *testing.T) (certificate, key []byte) {
	t.Helper()
	id, err := newIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		t.Fatal(err)
	}
	return id.CA(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

// TestWays tests all settings that the in-cluster configuration does not support.
func TestWays(t *testing.T) {
	certificate, key := keyPair(t)
	protocols(t, func(t *testing.T, http2 bool) {
		for name, test := range map[string]struct {
			change func(*Target)
			want   string
		}{
			"path":               {func(target *Target) { target.Server.Path = "/k8s/clusters/c-1/" }, "/k8s/clusters/c-1/api%2Fx?a=b token=Bearer T name= certificate="},
			"escaped path":       {func(target *Target) { target.Server = mustParse(t, target.Server.String()+"/a%2Fb") }, "/a%2Fb/api%2Fx?a=b token=Bearer T name= certificate="},
			"server name":        {func(target *Target) { target.ServerName = "example.com" }, "/api%2Fx?a=b token=Bearer T name=example.com certificate="},
			"certificate":        {func(target *Target) { target.Certificate, target.Key, target.Token = certificate, key, "" }, "/api%2Fx?a=b token= name= certificate=Keyferry proxy of this Pod"},
			"certificate, token": {func(target *Target) { target.Certificate, target.Key, target.Token = certificate, key, "both" }, "/api%2Fx?a=b token=Bearer both name= certificate=Keyferry proxy of this Pod"},
		} {
			t.Run(name, func(t *testing.T) {
				w, server := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
					certificate := ""
					if len(r.TLS.PeerCertificates) > 0 {
						certificate = r.TLS.PeerCertificates[0].Subject.CommonName
					}
					fmt.Fprintf(rw, "%s token=%s name=%s certificate=%s", r.RequestURI, r.Header.Get("Authorization"), r.TLS.ServerName, certificate)
				})
				target := w.target(server, "T")
				test.change(&target)
				w.proxy.Set(target)
				if code, got := w.get(w.client(http2), "/api%2Fx?a=b"); code != http.StatusOK || got != test.want {
					t.Errorf("%d %q, want %q", code, got, test.want)
				}
			})
		}
	})
}

// TestWrongServer checks that the credential is sent only to a server with a certificate of the
// target's CA and name.
func TestWrongServer(t *testing.T) {
	for name, change := range map[string]func(*Target){
		"name": func(target *Target) { target.ServerName = "other.example.org" },
		"CA":   func(target *Target) { target.CA, _ = keyPair(t) },
	} {
		t.Run(name, func(t *testing.T) {
			w, server := newWorld(t, func(http.ResponseWriter, *http.Request) {})
			target := w.target(server, "token")
			change(&target)
			w.proxy.Set(target)
			if code, body := w.get(w.client(true), "/api"); code != http.StatusBadGateway || !strings.Contains(body, "x509") {
				t.Errorf("%d %s", code, body)
			}
			if len(w.seen()) > 0 {
				t.Error("the request was sent")
			}
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	certificate, key := keyPair(t)
	for name, change := range map[string]func(*Target){
		"no server":             func(target *Target) { target.Server = nil },
		"no TLS":                func(target *Target) { target.Server.Scheme = "http" },
		"a user":                func(target *Target) { target.Server.User = url.User("planted") },
		"a query":               func(target *Target) { target.Server.RawQuery = "planted" },
		"a path that climbs":    func(target *Target) { target.Server.Path = "/a/../b" },
		"no CA":                 func(target *Target) { target.CA = nil },
		"no credential":         func(target *Target) { target.Token = "" },
		"a token with an end":   func(target *Target) { target.Token = "planted\r\nX: y" },
		"half a pair":           func(target *Target) { target.Certificate = certificate },
		"another key":           func(target *Target) { target.Certificate, target.Key = []byte("planted"), key },
		"proxy of another kind": func(target *Target) { target.Proxy = mustParse(t, "ftp://user:planted@proxy") },
		"proxy without a host":  func(target *Target) { target.Proxy = mustParse(t, "http://user:planted@") },
	} {
		t.Run(name, func(t *testing.T) {
			target := Target{Server: mustParse(t, "https://target"), CA: certificate, Token: "token"}
			if err := target.Check(); err != nil {
				t.Fatal(err)
			}
			change(&target)
			if err := target.Check(); err == nil || strings.Contains(err.Error(), "planted") {
				t.Errorf("error %v", err)
			}
		})
	}
}
