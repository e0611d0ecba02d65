package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/refresher/fileset"
)

func TestCommand(t *testing.T) {
	target := []string{"run", "--broker=https://broker.example", "--target=fleet/tenant-1"}
	dir := t.TempDir()
	tests := map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"help":              {[]string{"--help"}, 0, "Exit codes:", ""},
		"help of run":       {[]string{"run", "--help"}, 0, "-broker URL", ""},
		"help of wait":      {[]string{"wait", "-h"}, 0, "-timeout duration", ""},
		"no command":        {nil, 2, "", "say run or wait"},
		"unknown command":   {[]string{"serve"}, 2, "", `no command "serve"`},
		"unknown flag":      {append(target, "--brokers"), 2, "", "see 'refresher run --help'"},
		"argument":          {append(target, "now"), 2, "", `"now" is no flag`},
		"no broker":         {[]string{"run"}, 2, "", "--broker"},
		"half a mode":       {append(target, "--on-endpoint-change=ignore"), 2, "", "--endpoint, needed with"},
		"delivery":          {append(target, "--delivery=indirect"), 2, "", "use direct or proxy"},
		"no proxy address":  {append(target, "--delivery=proxy"), 2, "", "--proxy-address"},
		"health address":    {append(target, "--health-address=nonsense"), 1, "", "--health-address"},
		"nothing comes":     {[]string{"wait", "--timeout=1ns", "--credentials-dir=" + dir, "--termination-log=" + dir + "/log"}, 1, "", "no reason was given"},
		"wait has no flags": {[]string{"wait", "--broker=x"}, 2, "", "see 'refresher wait --help'"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := command(t.Context(), test.args, &stdout, &stderr)
			if code != test.code || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d, %q, %q", code, &stdout, &stderr, test.code, test.stdout, test.stderr)
			}
			if code != 0 && stdout.Len() != 0 {
				t.Errorf("an error, but stdout says %q", &stdout)
			}
		})
	}
}

func TestRunStops(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	code := command(ctx, []string{"run", "--broker=https://broker.example", "--target=fleet/tenant-1", "--health-address=127.0.0.1:0",
		"--credentials-dir=" + dir, "--identity-dir=" + dir, "--termination-log=" + dir + "/log"}, &stdout, &stderr)
	if code != 0 || !strings.Contains(stderr.String(), `"msg":"stopping"`) {
		t.Errorf("exit code %d, log %s", code, &stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "log")); err == nil {
		t.Error("a stop left a termination message")
	}
}

// TestRunTellsToRestart runs against a server that is broker and moved API server at once, with files of the old one.
func TestRunTellsToRestart(t *testing.T) {
	var server *httptest.Server
	var ca []byte
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			return // the version
		}
		answer := wire.ExecCredential{APIVersion: wire.APIVersion, Kind: wire.Kind}
		answer.Spec.Cluster = wire.Cluster{Server: server.URL, CertificateAuthorityData: ca, Config: wire.Config{Namespace: "default", Delivery: "Direct"}}
		answer.Status = wire.Status{Token: "new", ExpirationTimestamp: time.Now().Add(time.Hour)}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})

	credentials, identity := t.TempDir(), t.TempDir()
	for name, content := range map[string][]byte{"token": []byte("identity"), "ca.crt": ca} {
		if err := os.WriteFile(filepath.Join(identity, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeFiles(t, credentials, time.Now().Add(-time.Minute))
	var stdout, stderr bytes.Buffer
	code := command(t.Context(), []string{"run", "--broker=" + server.URL, "--target=fleet/tenant-1",
		"--credentials-dir=" + credentials, "--identity-dir=" + identity, "--termination-log=" + identity + "/log"}, &stdout, &stderr)
	if code != 42 {
		t.Errorf("exit code %d, log %s", code, &stderr)
	}
	if token, err := os.ReadFile(filepath.Join(credentials, "token")); err != nil || string(token) != "new" {
		t.Errorf("token is %q (error %v)", token, err)
	}
}

func TestWaitFindsFiles(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, time.Now().Add(time.Hour))
	var stdout, stderr bytes.Buffer
	if code := command(t.Context(), []string{"wait", "--credentials-dir=" + dir}, &stdout, &stderr); code != 0 {
		t.Errorf("exit code %d, stderr %q", code, &stderr)
	}
}

// writeFiles writes the files of a credential that ends at notAfter.
func writeFiles(t *testing.T, dir string, notAfter time.Time) {
	t.Helper()
	state := `{"endpoint":"https://10.0.0.1:6443","notAfter":"` + notAfter.Format(time.RFC3339) + `"}`
	files := map[string][]byte{"token": []byte("t"), "ca.crt": []byte("c"), "namespace": []byte("n"), "env": []byte("e"), "state.json": []byte(state)}
	if err := fileset.Write(dir, files); err != nil {
		t.Fatal(err)
	}
}
