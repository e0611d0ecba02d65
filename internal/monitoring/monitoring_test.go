package monitoring

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/keyferry/keyferry/internal/testenv"
)

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
	mgr, err := manager.New(&rest.Config{Host: "https://127.0.0.1:1"}, manager.Options{Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "keyferry_test_total", Help: "Counts."}))
	health, metrics := testenv.FreeAddress(t), testenv.FreeAddress(t)
	if err := NewChecks().AddHealth(t.Context(), mgr, health); err != nil {
		t.Fatal(err)
	}
	if err := AddMetrics(t.Context(), mgr, metrics, registry); err != nil {
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
	for url, want := range map[string]string{
		"http://" + health + "/readyz":   "ok",
		"http://" + metrics + "/metrics": "keyferry_test_total 0",
	} {
		address := strings.Split(url, "/")[2]
		hostile := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
		for i := range connectionsPerAddress + 1 {
			connection, err := hostile.DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = connection.Close() })
			if answered := ask(connection); answered != (i < connectionsPerAddress) {
				t.Fatalf("%s: connection %d of one address is answered: %v", url, i, answered)
			}
		}
		transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3)}}).DialContext}
		t.Cleanup(transport.CloseIdleConnections)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s: %s (%v)", url, response.Status, body, err)
		}
	}
}
