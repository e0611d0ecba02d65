package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/testenv"
)

var apiServer *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { apiServer = cfg }))
}

// TestServesAndStops runs the whole command: it gets ready, refuses, counts, and ends when its context does.
func TestServesAndStops(t *testing.T) {
	certDir := t.TempDir()
	roots := writeCertificate(t, certDir)
	t.Setenv("KUBECONFIG", writeKubeconfig(t))
	service, health, metrics := freeAddress(t), freeAddress(t), freeAddress(t)

	cmd := command()
	cmd.SetArgs([]string{"--cert-dir=" + certDir, "--listen-address=" + service, "--health-address=" + health, "--metrics-address=" + metrics, "--log-level=1"})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()

	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		select {
		case err := <-ended:
			t.Fatalf("ended early: %v", err)
		default:
		}
		code, _ := get(t, http.DefaultClient, http.MethodGet, "http://"+health+"/readyz")
		return code == http.StatusOK, nil
	})
	if err != nil {
		t.Fatalf("not ready: %v", err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}}
	code, body := get(t, client, http.MethodPost, "https://"+service+wire.TargetClusterPath("fleet", "tenant-1"))
	if code != http.StatusUnauthorized || !strings.Contains(body, `"reason":"Unauthorized"`) {
		t.Errorf("without a token: code %d: %s", code, body)
	}
	if _, body := get(t, http.DefaultClient, http.MethodGet, "http://"+metrics+"/metrics"); !strings.Contains(body, `keyferry_issue_requests_total{code="401",outcome="refused"} 1`) {
		t.Error("the refusal is not counted")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("stopping: %v", err)
	}
}

func TestWrongFlags(t *testing.T) {
	t.Setenv("KUBECONFIG", writeKubeconfig(t))
	certDir := t.TempDir()
	writeCertificate(t, certDir)
	for want, args := range map[string][]string{
		"--log-level":    {"--log-level=2"},
		"unknown":        {"credentials"},
		"/no/such/place": {"--cert-dir=/no/such/place", "--health-address=0", "--metrics-address=0"},
		"/no/such/file":  {"--cert-dir=" + certDir, "--provider-file=/no/such/file", "--health-address=0", "--metrics-address=0"},
	} {
		cmd := command()
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want an error about %s", args, err, want)
		}
	}
}

// get returns code 0 where nothing answers.
func get(t *testing.T, client *http.Client, method, url string) (code int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func writeKubeconfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: apiServer.Host, CertificateAuthorityData: apiServer.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {ClientCertificateData: apiServer.CertData, ClientKeyData: apiServer.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// writeCertificate writes one for 127.0.0.1 as the controller's Secrets have them, and returns what verifies it.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "broker"},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, content := range map[string][]byte{
		"tls.crt": certificate,
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	return roots
}
