package testenv

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Program is a Keyferry program that runs in the test's process.
type Program struct {
	stop  context.CancelFunc
	ended chan error
}

// Execute starts a program with arguments.
func Execute(t *testing.T, cmd *cobra.Command, args ...string) *Program {
	t.Helper()
	cmd.SetArgs(args)
	ctx, stop := context.WithCancel(t.Context())
	p := &Program{stop: stop, ended: make(chan error, 1)}
	go func() { p.ended <- cmd.ExecuteContext(ctx) }()
	return p
}

// Eventually waits until done returns true. It fails the test with the last lack if that takes too
// long, or if the program ends.
func (p *Program) Eventually(t *testing.T, done func() (ok bool, lack string)) {
	t.Helper()
	lack := ""
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 2*time.Minute, true, func(context.Context) (ok bool, _ error) {
		select {
		case err := <-p.ended:
			t.Fatalf("ended early: %v", err)
		default:
		}
		ok, lack = done()
		return ok, nil
	})
	if err != nil {
		t.Fatalf("%v: %s", err, lack)
	}
}

// Ready waits until the readiness check at address succeeds.
func (p *Program) Ready(t *testing.T, address string) {
	t.Helper()
	p.Eventually(t, func() (bool, string) {
		code, why := Ask(t, http.DefaultClient, http.MethodGet, "http://"+address+"/readyz?verbose", "")
		return code == http.StatusOK, why
	})
}

// Stop stops the program like SIGTERM.
func (p *Program) Stop(t *testing.T) {
	t.Helper()
	p.stop()
	if err := <-p.ended; err != nil {
		t.Errorf("stopping: %v", err)
	}
}

// Ask sends a request and returns the response. code is 0 if there is no response.
func Ask(t *testing.T, client *http.Client, method, url, body string) (code int, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	must(t, err)
	response, err := client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, string(text)
}

// WriteCertificate writes tls.crt and tls.key for 127.0.0.1 to a directory. It returns a pool that
// verifies the certificate.
func WriteCertificate(t testing.TB, dir string) *x509.CertPool {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler()) // has a certificate
	defer server.Close()
	key, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	must(t, err)
	for file, block := range map[string]*pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: server.Certificate().Raw},
		"tls.key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		must(t, os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600))
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return roots
}
