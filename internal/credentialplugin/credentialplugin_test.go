//go:build unix

package credentialplugin_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientexec "k8s.io/client-go/plugin/pkg/client/auth/exec"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/transport"

	"github.com/keyferry/keyferry/internal/credentialplugin"
	"github.com/keyferry/keyferry/providers"
)

const v1 = "client.authentication.k8s.io/v1"

// TestMain makes of this very program a plugin where it is asked to be one: by its first argument.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "plugin" {
		os.Exit(act(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

func act(how string, args []string) int {
	switch how {
	case "print":
		fmt.Fprint(os.Stdout, strings.Join(args, " "))
	case "question": // as the token of a credential
		fmt.Fprintf(os.Stdout, `{"apiVersion":%q,"kind":"ExecCredential","status":{"token":%q,"expirationTimestamp":"2999-01-01T00:00:00Z"}}`,
			v1, base64.RawURLEncoding.EncodeToString([]byte(os.Getenv("KUBERNETES_EXEC_INFO")+" of "+os.Getenv("OWN"))))
	case "fail":
		fmt.Fprint(os.Stdout, "printed-secret")
		fmt.Fprintln(os.Stderr, strings.Repeat("long ago ", 1000)+"\n\tthe cloud\x1b is down for own-secret and eyJh.eyJi.c2ln")
		return 3
	case "flood":
		for {
			if _, err := fmt.Fprint(os.Stdout, strings.Repeat("printed-secret", 1000)); err != nil {
				return 0
			}
		}
	case "sleep":
		time.Sleep(time.Hour) //nolint:forbidigo // it is killed
	case "leave": // a process that outlives it, and tells the file in args who it is
		child := exec.Command(os.Args[0], "plugin", "sleep")
		if args[1] == "holding" {
			child.Stdout = os.Stdout
		}
		if err := child.Start(); err != nil {
			return 1
		}
		if err := os.WriteFile(args[0], []byte(strconv.Itoa(child.Process.Pid)), 0o600); err != nil {
			return 1
		}
		fmt.Fprint(os.Stdout, credential(`"token":"t"`))
		if args[2] == "forever" {
			time.Sleep(time.Hour) //nolint:forbidigo // it is killed
		}
	}
	return 0
}

func credential(status string) string {
	return `{"apiVersion":"` + v1 + `","kind":"ExecCredential","status":{` + status + `}}`
}

func of(args ...string) credentialplugin.Plugin {
	return credentialplugin.Plugin{Command: os.Args[0], Args: append([]string{"plugin"}, args...), APIVersion: v1}
}

func TestRunAsks(t *testing.T) {
	cluster := &credentialplugin.Cluster{Server: "https://203.0.113.7:6443", TLSServerName: "api", CertificateAuthorityData: []byte("ca"), ProxyURL: "http://proxy:3128", Config: []byte(`{"name":"c-1"}`)}
	for name, test := range map[string]struct {
		cluster *credentialplugin.Cluster
		want    string
	}{
		"told":     {cluster, `{"apiVersion":"` + v1 + `","kind":"ExecCredential","spec":{"cluster":{"server":"https://203.0.113.7:6443","tls-server-name":"api","certificate-authority-data":"Y2E=","proxy-url":"http://proxy:3128","config":{"name":"c-1"}},"interactive":false}}`},
		"not told": {nil, `{"apiVersion":"` + v1 + `","kind":"ExecCredential","spec":{"interactive":false}}`},
	} {
		t.Run(name, func(t *testing.T) {
			p := of("question")
			p.Env = []string{"OWN=mine"}
			got, err := p.Run(t.Context(), test.cluster)
			if err != nil {
				t.Fatal(err)
			}
			asked, err := base64.RawURLEncoding.DecodeString(got.Token)
			if err != nil || string(asked) != test.want+" of mine" {
				t.Errorf("asked %s (%v), want %s", asked, err, test.want)
			}
		})
	}
}

// What is accepted here is accepted by client-go, too, and means the same.
func TestRunReads(t *testing.T) {
	certificate, key := pair(t)
	pairJSON := fmt.Sprintf(`"clientCertificateData":%q,"clientKeyData":%q`, certificate, key)
	end := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	jwt := "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, end.Unix())) + ".c2ln"
	for name, test := range map[string]struct {
		status, token string
		notAfter      time.Time // zero is the certificate's
	}{
		"token and end":         {`"token":"t-1","expirationTimestamp":"` + end.Format(time.RFC3339) + `"`, "t-1", end},
		"JWT without end":       {`"token":"` + jwt + `"`, jwt, end},
		"certificate":           {pairJSON, "", time.Time{}},
		"token and certificate": {`"token":"` + jwt + `",` + pairJSON, jwt, end},
	} {
		t.Run(name, func(t *testing.T) {
			p := of("print", credential(test.status))
			got, err := p.Run(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.notAfter.IsZero() {
				test.notAfter = notAfter(t, certificate)
			}
			if got.Token != test.token || !got.NotAfter.Equal(test.notAfter) || (test.token == "") != (string(got.ClientCertificate) == certificate && string(got.ClientKey) == key) {
				t.Errorf("got a token %q, certificate %q, until %s", got.Token, got.ClientCertificate, got.NotAfter)
			}
			if token := asClientGo(t, p); token != "" && token != "Bearer "+got.Token {
				t.Errorf("client-go sends %q", token)
			}
		})
	}
	t.Run("token without any end", func(t *testing.T) {
		got, err := of("print", credential(`"token":"opaque"`)).Run(t.Context(), nil)
		if left := time.Until(got.NotAfter); err != nil || left > 5*time.Minute || left < 4*time.Minute {
			t.Errorf("ends in %s (%v)", left, err)
		}
	})
}

// asClientGo returns the Authorization header that client-go sends with the plugin's answer.
func asClientGo(t *testing.T, p credentialplugin.Plugin) string {
	t.Helper()
	authenticator, err := clientexec.GetAuthenticator(&clientcmdapi.ExecConfig{
		Command: p.Command, Args: p.Args, APIVersion: p.APIVersion, InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := &transport.Config{}
	if err := authenticator.UpdateTransportConfig(config); err != nil {
		t.Fatal(err)
	}
	header := ""
	sent := roundTripper(func(r *http.Request) (*http.Response, error) {
		header = r.Header.Get("Authorization")
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://target.example", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.WrapTransport(sent).RoundTrip(request); err != nil {
		t.Fatalf("client-go does not accept the answer: %v", err)
	}
	return header
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRunRefuses(t *testing.T) {
	certificate, key := pair(t)
	_, otherKey := pair(t)
	for name, test := range map[string]struct{ printed, want string }{
		"nothing":           {"", "did not print an ExecCredential"},
		"text":              {"printed-secret", "did not print an ExecCredential"},
		"other kind":        {`{"kind":"Status","status":{"token":"printed-secret"}}`, "printed no ExecCredential"},
		"other version":     {`{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1beta1","status":{"token":"printed-secret"}}`, `"client.authentication.k8s.io/v1beta1", and was asked for ` + v1},
		"no status":         {`{"kind":"ExecCredential","apiVersion":"` + v1 + `"}`, "without a credential"},
		"empty token":       {credential(`"token":""`), "without a credential"},
		"half a pair":       {credential(`"token":"printed-secret","clientKeyData":"k"`), "only one"},
		"no certificate":    {credential(`"clientCertificateData":"printed-secret","clientKeyData":"k"`), "clientCertificateData"},
		"end is no time":    {credential(`"token":"printed-secret","expirationTimestamp":"soon"`), "did not print an ExecCredential"},
		"ended":             {credential(`"token":"printed-secret","expirationTimestamp":"2001-01-01T00:00:00Z"`), "expired at 2001-01-01T00:00:00Z"},
		"certificate ended": {credential(fmt.Sprintf(`"clientCertificateData":%q,"clientKeyData":%q,"expirationTimestamp":"2001-01-01T00:00:00Z"`, certificate, key)), "expired at"},
		"other key":         {credential(fmt.Sprintf(`"clientCertificateData":%q,"clientKeyData":%q`, certificate, otherKey)), "are not a certificate and its key"},
		"token of lines":    {credential(`"token":"printed-secret\n"`), "an HTTP header cannot contain"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := of("print", test.printed).Run(t.Context(), nil)
			failed(t, err, providers.ErrRefused, os.Args[0], test.want)
		})
	}
}

func TestRunFails(t *testing.T) {
	t.Run("exit code", func(t *testing.T) {
		p := of("fail")
		p.Secrets = []string{"own-secret"}
		_, err := p.Run(t.Context(), nil)
		failed(t, err, providers.ErrUnavailable, "exit status 3", "it says: ", " the cloud", "is down for [hidden] and [token]")
		if strings.ContainsAny(err.Error(), "\n\t\x1b") {
			t.Errorf("not one line of printable characters: %q", err)
		}
	})
	t.Run("no program", func(t *testing.T) {
		_, err := credentialplugin.Plugin{Command: "/nowhere/plugin", APIVersion: v1}.Run(t.Context(), nil)
		failed(t, err, providers.ErrUnavailable, "/nowhere/plugin", "static programs")
	})
	t.Run("too much output", func(t *testing.T) {
		_, err := of("flood").Run(t.Context(), nil)
		failed(t, err, providers.ErrUnavailable, "prints more than 1024 KiB")
	})
	t.Run("too long a question", func(t *testing.T) {
		_, err := of("question").Run(t.Context(), &credentialplugin.Cluster{CertificateAuthorityData: make([]byte, 200<<10)})
		failed(t, err, providers.ErrRefused, "too long for a process")
	})
	t.Run("timeout", func(t *testing.T) {
		p := of("sleep")
		p.Timeout = 50 * time.Millisecond
		_, err := p.Run(t.Context(), nil)
		failed(t, err, providers.ErrUnavailable, "has not ended within 50ms")
	})
}

func failed(t *testing.T, err, kind error, want ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	for _, part := range append(want, "plugin ") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "printed-secret") || len(err.Error()) > 2000 {
		t.Errorf("the error says too much: %v", err)
	}
}

// Whatever a plugin starts ends with it.
func TestRunLeavesNothingBehind(t *testing.T) {
	for name, test := range map[string]struct {
		holding, lasting string
		fails            bool
	}{
		"child outlives it":         {"", "", false},
		"child holds its output":    {"holding", "", true},
		"both are there too long":   {"", "forever", true},
		"both, and hold it at that": {"holding", "forever", true},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			p := of("leave", file, test.holding, test.lasting)
			p.Timeout = 5 * time.Second
			if test.lasting != "" {
				p.Timeout = 500 * time.Millisecond
			}
			if _, err := p.Run(t.Context(), nil); (err != nil) != test.fails {
				t.Errorf("got %v", err)
			}
			pid, err := os.ReadFile(file)
			if err != nil {
				t.Skip("this machine is too slow to begin with it")
			}
			child, err := strconv.Atoi(string(pid))
			if err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); alive(child); {
				if time.Now().After(deadline) {
					t.Fatalf("process %d is still there", child)
				}
			}
		})
	}
}

// alive reports whether a process is there that does anything.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
