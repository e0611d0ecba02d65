package monitoring

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/keyferry/keyferry/internal/testenv"
)

var apiServer *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { apiServer = cfg }))
}

// served is a program that serves metrics and health checks.
type served struct {
	health, metrics string // addresses
	encryption      *tls.Config
}

// serve runs one until the test ends.
func serve(t *testing.T, secure bool) served {
	t.Helper()
	mgr, err := manager.New(apiServer, manager.Options{Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	certDir := t.TempDir()
	roots := testenv.WriteCertificate(t, certDir)
	certificate, err := certwatcher.New(certDir+"/tls.crt", certDir+"/tls.key")
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "keyferry_test_total", Help: "Counts."}))
	s := served{
		health: testenv.FreeAddress(t), metrics: testenv.FreeAddress(t),
		encryption: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	if err := NewChecks().AddHealth(t.Context(), mgr, s.health); err != nil {
		t.Fatal(err)
	}
	metrics := &Metrics{Address: s.metrics, Secure: secure, Gatherer: registry, GetCertificate: certificate.GetCertificate}
	if err := metrics.Add(t.Context(), mgr); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// A client without a token, or with a token that may not get /metrics, gets no metrics.
func TestMetricsNeedAPermission(t *testing.T) {
	s := serve(t, true)
	scraper := testenv.Token(t, apiServer, rbacv1.PolicyRule{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}})
	stranger := testenv.Token(t, apiServer, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}})
	for _, test := range []struct {
		name, token, method string
		code                int
		page                bool
	}{
		{"no token", "", http.MethodGet, http.StatusUnauthorized, false},
		{"no permission", stranger, http.MethodGet, http.StatusForbidden, false},
		{"permission for another verb", scraper, http.MethodPost, http.StatusForbidden, false},
		{"not a token", "x", http.MethodGet, http.StatusInternalServerError, false}, // as controller-runtime answers
		{"permission", scraper, http.MethodGet, http.StatusOK, true},
	} {
		client := testenv.NewClientWithToken(test.token, s.encryption)
		code, page := testenv.Ask(t, client, test.method, "https://"+s.metrics+"/metrics", "")
		if code != test.code || strings.Contains(page, "keyferry_test_total 0") != test.page {
			t.Errorf("%s: code %d: %s", test.name, code, page)
		}
	}
	if code, page := testenv.Ask(t, http.DefaultClient, http.MethodGet, "http://"+s.metrics+"/metrics", ""); code != http.StatusBadRequest {
		t.Errorf("plain HTTP: code %d: %s", code, page)
	}
}

func TestMetricsInsecure(t *testing.T) {
	s := serve(t, false)
	code, page := testenv.Ask(t, http.DefaultClient, http.MethodGet, "http://"+s.metrics+"/metrics", "")
	if code != http.StatusOK || !strings.Contains(page, "keyferry_test_total 0") {
		t.Errorf("code %d: %s", code, page)
	}
}

// ask asks over a connection, which stays open, and reports whether it is answered.
func ask(connection net.Conn) bool {
	if _, err := io.WriteString(connection, "GET /healthz HTTP/1.1\r\nHost: keyferry\r\n\r\n"); err != nil {
		return false
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return true
}

// A client opens all the connections that it can. Another address is answered, by all listeners.
func TestOneAddressHoldsNobodyUp(t *testing.T) {
	s := serve(t, true)
	for url, want := range map[string]int{
		"http://" + s.health + "/readyz":    http.StatusOK,
		"https://" + s.metrics + "/metrics": http.StatusUnauthorized,
	} {
		address := strings.Split(url, "/")[2]
		hostile := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
		for i := range connectionsPerAddress + 1 {
			connection, err := hostile.DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = connection.Close() })
			if address == s.metrics {
				encryption := s.encryption.Clone()
				encryption.ServerName = "127.0.0.1"
				connection = tls.Client(connection, encryption)
			}
			if answered := ask(connection); answered != (i < connectionsPerAddress) {
				t.Fatalf("%s: connection %d of one address is answered: %v", url, i, answered)
			}
		}
		transport := &http.Transport{
			DialContext:     (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3)}}).DialContext,
			TLSClientConfig: s.encryption,
		}
		t.Cleanup(transport.CloseIdleConnections)
		if code, page := testenv.Ask(t, &http.Client{Transport: transport}, http.MethodGet, url, ""); code != want {
			t.Errorf("%s: code %d: %s", url, code, page)
		}
	}
}
