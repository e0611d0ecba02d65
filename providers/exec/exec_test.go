//go:build unix

package exec_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyferry/keyferry/internal/credentialplugin"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/exec"
	"github.com/keyferry/keyferry/providers/providertest"
)

const (
	v1      = "client.authentication.k8s.io/v1"
	planted = "planted-secret"
)

// TestMain makes of this very program a plugin where its first argument asks for that.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "plugin" {
		os.Exit(act(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func act(args []string) int {
	switch args[0] {
	case "print":
		fmt.Fprint(os.Stdout, args[1])
	case "environment": // as the token
		environ, _ := json.Marshal(os.Environ())
		fmt.Fprint(os.Stdout, credential(`"token":"`+base64.RawURLEncoding.EncodeToString(environ)+`"`))
	case "fail":
		fmt.Fprintln(os.Stderr, "the cloud is down for", os.Getenv("OWN"))
		return 1
	case "hang":
		if err := os.WriteFile(args[1], nil, 0o600); err != nil {
			return 1
		}
		select {}
	}
	return 0
}

func credential(status string) string {
	return `{"apiVersion":"` + v1 + `","kind":"ExecCredential","status":{` + status + `}}`
}

func config(args ...string) exec.Config {
	return exec.Config{Name: "p", Command: os.Args[0], Args: append([]string{"plugin"}, args...), Env: []string{"OWN=" + planted}, APIVersion: v1}
}

func newProvider(t *testing.T, cfg exec.Config) *exec.Provider {
	t.Helper()
	p, err := exec.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProvider(t *testing.T) {
	of := func(args ...string) func(*testing.T) providers.Provider {
		return func(t *testing.T) providers.Provider { return newProvider(t, config(args...)) }
	}
	providertest.Run(t, providertest.Suite{
		New:         of("print", credential(`"token":"t","expirationTimestamp":"2999-01-01T00:00:00Z"`)),
		Refused:     of("print", `{"apiVersion":"`+v1+`beta1","kind":"ExecCredential","status":{"token":"`+planted+`"}}`),
		Unavailable: of("fail"),
		Hanging: func(t *testing.T) (providers.Provider, <-chan struct{}) {
			started, asked := t.TempDir()+"/started", make(chan struct{})
			if err := syscall.Mkfifo(started, 0o600); err != nil {
				t.Fatal(err)
			}
			go func() {
				defer close(asked)
				_, _ = os.ReadFile(started) // once somebody writes
			}()
			return newProvider(t, config("hang", started)), asked
		},
		Secrets: []string{planted},
		Request: providers.Request{Identity: providers.Identity{Namespace: "app", ServiceAccount: "web"}},
	})
}

// A plugin sees what the provider file says, who this process is to clouds, and nothing else of its
// environment.
func TestEnvironment(t *testing.T) {
	cfg := config("environment")
	cfg.Env = []string{"OWN=own", "AWS_REGION=own"}
	cfg.Environ = []string{
		"PATH=/bin", "HOME=/root", "POD_NAMESPACE=keyferry-system", "GODEBUG=x", "LD_PRELOAD=x",
		"KUBERNETES_SERVICE_HOST=10.0.0.1", "AWS_REGION=eu", "AWS_WEB_IDENTITY_TOKEN_FILE=/token", "https_proxy=http://proxy", "AWS_SECRET_ACCESS_KEY=x",
	}
	got, err := newProvider(t, cfg).Issue(t.Context(), providers.Request{})
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := base64.RawURLEncoding.DecodeString(got.Token)
	if err != nil {
		t.Fatal(err)
	}
	var environ []string
	if err := json.Unmarshal(decoded, &environ); err != nil {
		t.Fatal(err)
	}
	slices.Sort(environ)
	want := []string{
		"AWS_REGION=own", "AWS_WEB_IDENTITY_TOKEN_FILE=/token", "KUBERNETES_EXEC_INFO=" + `{"apiVersion":"` + v1 + `","kind":"ExecCredential","spec":{"interactive":false}}`,
		"KUBERNETES_SERVICE_HOST=10.0.0.1", "OWN=own", "https_proxy=http://proxy",
	}
	if !slices.Equal(environ, want) {
		t.Errorf("the plugin sees %q, want %q", environ, want)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*exec.Config){
		"relative command": func(c *exec.Config) { c.Command = "plugin" },
		"no apiVersion":    func(c *exec.Config) { c.APIVersion = "" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config("print", "")
			change(&cfg)
			if _, err := exec.New(cfg); err == nil || !strings.Contains(err.Error(), "provider p: execConfig.") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTimeoutAndSlots(t *testing.T) {
	slots := exec.NewSlots()
	cfg := config("hang", t.TempDir()+"/started")
	cfg.Timeout, cfg.Slots = 50*time.Millisecond, slots
	if _, err := newProvider(t, cfg).Issue(t.Context(), providers.Request{}); err == nil || !strings.Contains(err.Error(), "has not ended within 50ms") {
		t.Errorf("got %v", err)
	}
	cfg = config("print", credential(`"token":"t"`))
	cfg.Slots = slots
	for range 3 { // plugins that ended keep no slots
		if _, err := newProvider(t, cfg).Issue(t.Context(), providers.Request{}); err != nil {
			t.Error(err)
		}
	}
	var others sync.WaitGroup
	end := make(chan struct{})
	for range 2 {
		started := make(chan struct{})
		others.Go(func() {
			_ = slots.Do(t.Context(), "", "", func(context.Context) error { close(started); <-end; return nil })
		})
		<-started
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newProvider(t, cfg).Issue(ctx, providers.Request{}); !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "waiting until other plugins have ended") {
		t.Errorf("without a slot: %v", err)
	}
	close(end)
	others.Wait()
}

// client-go, with the same plugin, sends to the target what we get.
func TestAsClientGo(t *testing.T) {
	target := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("Authorization"))
	}))
	t.Cleanup(target.Close)
	cluster := &credentialplugin.Cluster{Server: target.URL}
	for name, status := range map[string]string{
		"with its end": `"token":"t-1","expirationTimestamp":"2999-01-01T00:00:00Z"`,
		"without":      `"token":"opaque"`,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config("print", credential(status))
			cfg.Cluster = cluster
			ours, err := newProvider(t, cfg).Issue(t.Context(), providers.Request{})
			if err != nil {
				t.Fatal(err)
			}
			client, err := rest.HTTPClientFor(&rest.Config{
				Host:            target.URL,
				TLSClientConfig: rest.TLSClientConfig{Insecure: true},
				ExecProvider: &clientcmdapi.ExecConfig{
					Command: cfg.Command, Args: cfg.Args, APIVersion: cfg.APIVersion, InteractiveMode: clientcmdapi.NeverExecInteractiveMode, ProvideClusterInfo: true,
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target.URL, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			sent, err := io.ReadAll(resp.Body)
			if err != nil || string(sent) != "Bearer "+ours.Token {
				t.Errorf("client-go sends %q (%v), and ours is %q", sent, err, ours.Token)
			}
		})
	}
}
