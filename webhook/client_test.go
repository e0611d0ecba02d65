package webhook

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clientAuthority is a CA of client certificates.
type clientAuthority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newClientAuthority(t *testing.T) clientAuthority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "api servers"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	certificate, err := x509.ParseCertificate(der)
	must(t, err)
	return clientAuthority{certificate, key}
}

func (a clientAuthority) write(t *testing.T, file string) {
	t.Helper()
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}), 0o600))
}

func (a clientAuthority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestOnlyAPIServersAreAnswered checks that, if a CA of clients is set, only clients with a
// certificate of that CA and an allowed name are served, according to the current content of the
// file.
func TestOnlyAPIServersAreAnswered(t *testing.T) {
	ours, others := newClientAuthority(t), newClientAuthority(t)
	file := filepath.Join(t.TempDir(), "ca.crt")
	ours.write(t, file)
	port, roots := serveReviews(t, testHandler(t, nil), func(cfg *ServerConfig) {
		cfg.ClientCA, cfg.ClientNames = file, []string{"kube-apiserver"}
	})
	apiServer := ours.issue(t, "kube-apiserver")
	answered := func(t *testing.T, certificates ...tls.Certificate) bool {
		t.Helper()
		transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
			RootCAs: roots, ServerName: "example.com", Certificates: certificates, MinVersion: tls.VersionTLS12,
		}}
		defer transport.CloseIdleConnections()
		response, err := (&http.Client{Transport: transport}).Post("https://127.0.0.1:"+port+PathPods, "application/json", strings.NewReader("{}"))
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return true
	}
	for name, test := range map[string]struct {
		certificates []tls.Certificate
		want         bool
	}{
		"an API server":            {[]tls.Certificate{apiServer}, true},
		"no certificate":           {nil, false},
		"a certificate of a Pod":   {[]tls.Certificate{ours.issue(t, "web")}, false},
		"a certificate of another": {[]tls.Certificate{others.issue(t, "kube-apiserver")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := answered(t, test.certificates...); got != test.want {
				t.Errorf("answered: %v", got)
			}
		})
	}
	others.write(t, file)
	if answered(t, apiServer) {
		t.Error("a certificate of the former CA is accepted")
	}
	if !answered(t, others.issue(t, "kube-apiserver")) {
		t.Error("a certificate of the new CA is not accepted")
	}
}

func TestServerConfigRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.crt")
	must(t, os.WriteFile(empty, []byte("no PEM"), 0o600))
	for want, cfg := range map[string]ServerConfig{
		"ClientNames needs ClientCA":     {ClientNames: []string{"kube-apiserver"}},
		"no such file":                   {ClientCA: empty + ".none"},
		"contains no PEM certificate":    {ClientCA: empty},
		"serving: Config.Listener is mi": {},
	} {
		if _, err := NewServer(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
