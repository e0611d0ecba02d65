package egress_test

import (
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/egress"
)

func TestCheck(t *testing.T) {
	for address, test := range map[string]struct {
		policy  egress.Policy
		refused bool
	}{
		"203.0.113.7":            {refused: false},
		"10.0.0.1":               {refused: false},
		"2001:db8::7":            {refused: false},
		"169.254.169.254":        {refused: true},
		"::ffff:169.254.169.254": {refused: true},
		"fe80::1":                {refused: true},
		"ff02::1":                {refused: true},
		"127.0.0.1":              {refused: true},
		"127.8.8.8":              {refused: true},
		"::1":                    {refused: true},
		"::ffff:127.0.0.1":       {refused: true},
		"0.0.0.0":                {refused: true},
		"::":                     {refused: true},
		"169.254.1.1":            {policy: egress.Policy{AllowLinkLocal: true}, refused: false},
		"127.0.0.2":              {policy: egress.Policy{AllowLocal: true}, refused: false},
		"169.254.1.2":            {policy: egress.Policy{AllowLocal: true}, refused: true},
		"127.0.0.3":              {policy: egress.Policy{AllowLinkLocal: true}, refused: true},
		"::ffff:127.0.0.4":       {policy: egress.Policy{AllowLocal: true}, refused: false},
		"fe80::2":                {policy: egress.Policy{AllowLinkLocal: true}, refused: false},
		"::ffff:169.254.169.2":   {policy: egress.Policy{AllowLinkLocal: true}, refused: false},
	} {
		t.Run(address, func(t *testing.T) {
			err := test.policy.Check(netip.MustParseAddr(address))
			if (err != nil) != test.refused {
				t.Errorf("got %v, want refused = %v", err, test.refused)
			}
		})
	}
}

// server is a TLS server and the endpoint to reach it at.
func server(t *testing.T, handler http.Handler) (*httptest.Server, providers.Endpoint) {
	t.Helper()
	s := httptest.NewTLSServer(handler)
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return s, providers.Endpoint{Server: s.URL, CertificateAuthority: ca}
}

func get(t *testing.T, policy egress.Policy, endpoint providers.Endpoint, credential providers.Credential) (*http.Response, error) {
	t.Helper()
	client, err := policy.Client(endpoint, credential)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, endpoint.Server, http.NoBody)
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
	s, endpoint := server(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	byName := endpoint
	byName.Server = "https://localhost:" + port
	proxied := endpoint
	proxied.Server, proxied.ProxyURL = "https://api.example.com", "http://localhost:"+port
	for name, endpoint := range map[string]providers.Endpoint{"address": endpoint, "name": byName, "proxy": proxied} {
		t.Run(name, func(t *testing.T) {
			_, err := get(t, egress.Policy{}, endpoint, providers.Credential{Token: "planted"})
			if refused, ok := errors.AsType[*egress.AddressError](err); !ok || refused.Kind != "loopback" {
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
	_, endpoint := server(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		got = req.Header.Get("Authorization")
		http.Redirect(w, req, elsewhere.Server, http.StatusFound)
	}))
	resp, err := get(t, egress.Policy{AllowLocal: true}, endpoint, providers.Credential{Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusFound || got != "Bearer t" {
		t.Errorf("status %d after sending %q", resp.StatusCode, got)
	}
}

func TestClientVerifiesServer(t *testing.T) {
	_, endpoint := server(t, http.NotFoundHandler())
	endpoint.TLSServerName = "api.invalid"
	if _, err := get(t, egress.Policy{AllowLocal: true}, endpoint, providers.Credential{}); err == nil {
		t.Error("a server of another name was trusted")
	}
	endpoint.TLSServerName = "example.com" // a name in httptest's certificate
	if _, err := get(t, egress.Policy{AllowLocal: true}, endpoint, providers.Credential{}); err != nil {
		t.Errorf("the TLS server name was not used: %v", err)
	}
}

func TestClientCutsOffLongAnswers(t *testing.T) {
	_, endpoint := server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat("x", 1<<20))
		for range 8 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	resp, err := get(t, egress.Policy{AllowLocal: true}, endpoint, providers.Credential{})
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
		endpoint   providers.Endpoint
		credential providers.Credential
	}{
		"CA":          {endpoint: providers.Endpoint{CertificateAuthority: []byte("planted")}},
		"certificate": {credential: providers.Credential{ClientCertificate: []byte("planted"), ClientKey: []byte("planted")}},
		"proxy":       {endpoint: providers.Endpoint{ProxyURL: "http://user:planted@[::1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := egress.Policy{}.Client(test.endpoint, test.credential)
			if err == nil || strings.Contains(err.Error(), "planted") {
				t.Errorf("got %v, want an error without the secret", err)
			}
		})
	}
}
