package loopback

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInternet: its hosts are there, at their names, and no others.
func TestInternet(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	site := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
	}
	i, err := Serve(ctx, dir, map[string]http.Handler{"a.example.com": site("a"), "b.example.com": site("b")})
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := url.Parse(strings.TrimPrefix(i.Environment()[0], "HTTPS_PROXY="))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	for host, want := range map[string]string{"a.example.com": "a", "b.example.com": "b", "c.example.com": "", "a.example.com:8443": ""} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := transport.RoundTrip(request)
		if (err == nil) != (want != "") {
			t.Errorf("%s: %v", host, err)
		}
		if err != nil {
			continue
		}
		if content, err := io.ReadAll(answer.Body); err != nil || string(content) != want {
			t.Errorf("%s: %q, %v", host, content, err)
		}
		answer.Body.Close()
	}
}
