package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
)

// runOf has a copy of the test's program be the refresher, with these arguments.
const runOf = "KEYFERRY_TEST_RUN_OF"

// TestSuspended: a refresher that was stopped until its credential had ended has a new one as soon
// as it goes on. It takes the seconds that a credential lives.
func TestSuspended(t *testing.T) {
	const life = 3 * time.Second
	var server *httptest.Server
	var ca []byte
	var issued atomic.Int64
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			return // the version
		}
		now := time.Now()
		answer := wire.ExecCredential{APIVersion: wire.APIVersion, Kind: wire.Kind}
		answer.Spec.Cluster = wire.Cluster{Server: server.URL, CertificateAuthorityData: ca, Config: wire.Config{Namespace: "default", Delivery: "Direct", RefreshAt: now.Add(life / 2)}}
		answer.Status = wire.Status{Token: fmt.Sprintf("token-%d", issued.Add(1)), ExpirationTimestamp: now.Add(life)}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	dir := t.TempDir()
	credentials := filepath.Join(dir, "credentials")
	for name, content := range map[string][]byte{"token": []byte("identity"), "ca.crt": ca} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	refresher := exec.CommandContext(t.Context(), program)
	refresher.Env = append(os.Environ(), runOf+"="+strings.Join([]string{"run", "--broker=" + server.URL, "--target=fleet/tenant-1",
		"--health-address=127.0.0.1:0", "--credentials-dir=" + credentials, "--identity-dir=" + dir, "--termination-log=" + dir + "/log"}, "\n"))
	if err := refresher.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = refresher.Process.Kill()
		_ = refresher.Wait()
	}()
	token := func() string { text, _ := os.ReadFile(filepath.Join(credentials, "token")); return string(text) }
	send := func(signal syscall.Signal) {
		if err := refresher.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the first credential", func() bool { return token() != "" })
	send(syscall.SIGSTOP)
	before, started := token(), time.Now()
	eventually(t, "the credential's end", func() bool { return time.Since(started) > life })
	if after := token(); after != before {
		t.Fatalf("%s became %s while the refresher was stopped", before, after)
	}
	send(syscall.SIGCONT)
	eventually(t, "a new credential", func() bool { return token() != before && token() != "" })
	if refresher.ProcessState != nil {
		t.Error("the refresher has ended")
	}
}

func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for tick := time.Tick(10 * time.Millisecond); !so(); {
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatalf("waiting for %s", what)
		}
	}
}
