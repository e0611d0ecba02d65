package egress_test

import (
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/egress"
	"github.com/keyferry/keyferry/providers"
)

// server is a TLS server and the endpoint to reach it at.
func server(t *testing.T, handler http.Handler) (*httptest.Server, endpoint.Endpoint) {
	t.Helper()
	s := httptest.NewTLSServer(handler)
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return s, endpoint.Endpoint{Server: s.URL, CertificateAuthority: ca}
}

func get(t *testing.T, policy endpoint.Policy, at endpoint.Endpoint, credential providers.Credential) (*http.Response, error) {
	t.Helper()
	client, err := egress.Client(policy, at, credential)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at.Server, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err == nil {
		t.Cleanup(func() { _ = resp.Body.Close() })
	}
	return resp, err
}

func TestRefusedWhenDialled(t *testing.T) {
	asked := false
	s, at := server(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	byName := at
	byName.Server = "https://localhost:" + port
	proxied := at
	proxied.Server, proxied.ProxyURL = "https://api.example.com", "http://localhost:"+port
	for name, at := range map[string]endpoint.Endpoint{"address": at, "name": byName, "proxy": proxied} {
		t.Run(name, func(t *testing.T) {
			_, err := get(t, endpoint.Policy{}, at, providers.Credential{Token: "planted"})
			if refused, ok := errors.AsType[*endpoint.AddressError](err); !ok || refused.Kind != "loopback" {
				t.Errorf("got %v, want an AddressError", err)
			}
		})
	}
	if asked {
		t.Error("the server was reached")
	}
}

func TestClient(t *testing.T) {
	_, elsewhere := server(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		t.Errorf("followed a redirect, with %q", req.Header.Get("Authorization"))
	}))
	var got string
	_, at := server(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		got = req.Header.Get("Authorization")
		http.Redirect(w, req, elsewhere.Server, http.StatusFound)
	}))
	resp, err := get(t, endpoint.Policy{AllowLocal: true}, at, providers.Credential{Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusFound || got != "Bearer t" {
		t.Errorf("status %d after sending %q", resp.StatusCode, got)
	}
}

func TestClientVerifiesServer(t *testing.T) {
	_, at := server(t, http.NotFoundHandler())
	at.TLSServerName = "api.invalid"
	if _, err := get(t, endpoint.Policy{AllowLocal: true}, at, providers.Credential{}); err == nil {
		t.Error("a server of another name was trusted")
	}
	at.TLSServerName = "example.com" // a name in httptest's certificate
	if _, err := get(t, endpoint.Policy{AllowLocal: true}, at, providers.Credential{}); err != nil {
		t.Errorf("the TLS server name was not used: %v", err)
	}
}

func TestClientCutsOffLongAnswers(t *testing.T) {
	_, at := server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat("x", 1<<20))
		for range 8 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	resp, err := get(t, endpoint.Policy{AllowLocal: true}, at, providers.Credential{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resp.Body.Read(nil); err != nil {
		t.Fatal(err)
	}
	n, buffer := 0, make([]byte, 1<<20)
	for {
		read, err := resp.Body.Read(buffer)
		n += read
		if err != nil {
			if n > 4<<20 || !strings.Contains(err.Error(), "too large") {
				t.Errorf("read %d bytes, then %v", n, err)
			}
			return
		}
	}
}

func TestClientRefusesWhatCannotBeUsed(t *testing.T) {
	for name, test := range map[string]struct {
		endpoint   endpoint.Endpoint
		credential providers.Credential
	}{
		"CA":          {endpoint: endpoint.Endpoint{CertificateAuthority: []byte("planted")}},
		"certificate": {credential: providers.Credential{ClientCertificate: []byte("planted"), ClientKey: []byte("planted")}},
		"proxy":       {endpoint: endpoint.Endpoint{ProxyURL: "http://user:planted@[::1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := egress.Client(endpoint.Policy{}, test.endpoint, test.credential)
			if err == nil || strings.Contains(err.Error(), "planted") {
				t.Errorf("got %v, want an error without the secret", err)
			}
		})
	}
}
