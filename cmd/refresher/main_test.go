package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/generated"
	"github.com/keyferry/keyferry/internal/metrics/metricstest"
	"github.com/keyferry/keyferry/internal/version"
	"github.com/keyferry/keyferry/refresher/fileset"
)

var update = flag.Bool("update", false, "write what is generated")

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
		"no command":        {nil, 2, "", "expected run, wait or copy"},
		"unknown command":   {[]string{"serve"}, 2, "", `unknown command "serve"`},
		"unknown flag":      {append(target, "--brokers"), 2, "", "see 'refresher run --help'"},
		"argument":          {append(target, "now"), 2, "", `"now" is not a flag`},
		"no broker":         {[]string{"run"}, 2, "", "--broker"},
		"half a mode":       {append(target, "--on-endpoint-change=ignore"), 2, "", "--endpoint, needed with"},
		"delivery":          {append(target, "--delivery=indirect"), 2, "", "use direct or proxy"},
		"no proxy address":  {append(target, "--delivery=proxy"), 2, "", "--proxy-address"},
		"health address":    {append(target, "--health-address=nonsense"), 1, "", "--health-address"},
		"nothing comes":     {[]string{"wait", "--timeout=1ns", "--credentials-dir=" + dir, "--termination-log=" + dir + "/log"}, 1, "", "no reason was given"},
		"plugin of no name": {append(target, "--plugin", "--"), 2, "", "--plugin needs"},
		"two clusters":      {append(target, "--cluster-profile=fleet/p"), 2, "", "exclude each other"},
		"half a cluster":    {append(target, "--cluster=fleet/tenant-2"), 2, "", "use NAMESPACE/NAME@IP:PORT"},
		"direct contexts":   {append(target, "--cluster=fleet/tenant-2@127.0.0.1:16444"), 2, "", "--cluster needs --delivery=proxy"},
		"no kubeconfig":     {[]string{"wait", "--timeout=1ns", "--kubeconfig=" + dir + "/kubeconfig"}, 1, "", "there is no " + dir + "/kubeconfig yet"},
		"half a copy":       {[]string{"copy", "/plugin"}, 2, "", "needs FROM and TO"},
		"copy of nothing":   {[]string{"copy", dir + "/none", dir + "/to"}, 1, "", "check its path in the image"},
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

// TestRunTellsToRestart runs against a server that is broker and moved API server at once, with
// files of the old one.
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

// TestRunRunsPlugin has a copy of this very program issue the credential.
func TestRunRunsPlugin(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ca []byte
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != wire.ClusterProfilePath("fleet", "paris") {
			t.Errorf("asked at %s", r.URL.Path)
		}
		answer := wire.ExecCredential{APIVersion: wire.APIVersion, Kind: wire.Kind}
		answer.Spec.Cluster = wire.Cluster{Server: "https://target.example:6443", CertificateAuthorityData: ca, Config: wire.Config{
			Namespace: "default", Delivery: "Direct", PluginInPod: true, PluginConfig: json.RawMessage(`{"name":"paris"}`),
		}}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	dir := t.TempDir()
	for name, content := range map[string][]byte{"token": []byte("identity"), "ca.crt": ca} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copied := filepath.Join(dir, "plugin")
	var stdout, stderr bytes.Buffer
	if code := command(ctx, []string{"copy", os.Args[0], copied}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d, stderr %q", code, &stderr)
	}
	t.Setenv("KEYFERRY_TEST_PLUGIN", "yes")
	ended := make(chan int, 1)
	go func() {
		ended <- command(ctx, []string{"run", "--broker=" + server.URL, "--cluster-profile=fleet/paris", "--plugin", "--plugin-cluster-info",
			"--credentials-dir=" + dir + "/files", "--identity-dir=" + dir, "--termination-log=" + dir + "/log", "--", copied, "-x", "y"}, &stdout, &stderr)
	}()
	var waited bytes.Buffer
	if code := command(ctx, []string{"wait", "--credentials-dir=" + dir + "/files", "--termination-log=" + dir + "/log"}, &stdout, &waited); code != 0 {
		t.Errorf("waiting: exit code %d, stderr %q", code, &waited)
	}
	if token, err := os.ReadFile(filepath.Join(dir, "files", "token")); err != nil || string(token) != "-x/y/paris" {
		t.Errorf("token is %q (error %v)", token, err)
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d, log %s", code, &stderr)
	}
}

// TestServesMetrics runs against a broker, and looks at what is served at the port.
func TestServesMetrics(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ca []byte
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer := wire.ExecCredential{APIVersion: wire.APIVersion, Kind: wire.Kind}
		answer.Spec.Cluster = wire.Cluster{Server: "https://target.example:6443", CertificateAuthorityData: ca, Config: wire.Config{Namespace: "default", Delivery: "Direct"}}
		answer.Status = wire.Status{Token: "planted", ExpirationTimestamp: time.Now().Add(time.Hour)}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	dir := t.TempDir()
	for name, content := range map[string][]byte{"token": []byte("identity"), "ca.crt": ca} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()

	var stdout, stderr, waited bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- command(ctx, []string{"run", "--broker=" + server.URL, "--target=fleet/tenant-1", "--health-address=" + address,
			"--credentials-dir=" + dir + "/files", "--identity-dir=" + dir, "--termination-log=" + dir + "/log"}, &stdout, &stderr)
	}()
	if code := command(ctx, []string{"wait", "--credentials-dir=" + dir + "/files", "--termination-log=" + dir + "/log"}, &stdout, &waited); code != 0 {
		t.Errorf("waiting: exit code %d, stderr %q", code, &waited)
	}
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "planted") {
		t.Error("a credential is in the metrics")
	}
	metricstest.Check(t, "refresher", string(text), *update)
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d, log %s", code, &stderr)
	}
}

// TestMain makes a plugin of this program where it is asked to be one.
func TestMain(m *testing.M) {
	if args := os.Getenv(runOf); args != "" {
		os.Exit(command(context.Background(), strings.Split(args, "\n"), os.Stdout, os.Stderr))
	}
	if os.Getenv("KEYFERRY_TEST_PLUGIN") == "" {
		os.Exit(m.Run())
	}
	var asked struct {
		APIVersion string `json:"apiVersion"`
		Spec       struct {
			Cluster struct {
				Config struct {
					Name string `json:"name"`
				} `json:"config"`
			} `json:"cluster"`
		} `json:"spec"`
	}
	if err := json.Unmarshal([]byte(os.Getenv("KUBERNETES_EXEC_INFO")), &asked); err != nil {
		os.Exit(1)
	}
	fmt.Fprintf(os.Stdout, `{"apiVersion":%q,"kind":"ExecCredential","status":{"token":%q}}`, asked.APIVersion, strings.Join(append(os.Args[1:], asked.Spec.Cluster.Config.Name), "/"))
	os.Exit(0)
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

func TestFlagsAreDocumented(t *testing.T) {
	help := ""
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"wait", "--help"}} {
		var stdout, stderr bytes.Buffer
		if code := command(t.Context(), args, &stdout, &stderr); code != 0 {
			t.Fatalf("%v: exit code %d, stderr %q", args, code, &stderr)
		}
		help += stdout.String() + "\n"
	}
	generated.CheckHelp(t, "refresher", strings.ReplaceAll(help, "\t", "    "), *update)
	var stdout bytes.Buffer
	if code := command(t.Context(), []string{"--version"}, &stdout, io.Discard); code != 0 || stdout.String() != version.String()+"\n" {
		t.Errorf("--version: exit code %d, %q", code, &stdout)
	}
}
