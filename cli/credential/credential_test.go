package credential_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientauthentication "k8s.io/client-go/pkg/apis/clientauthentication/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/cli"
	"github.com/keyferry/keyferry/cli/credential"
)

const (
	planted = "planted-password"
	token   = "the-issued-token"
)

// keyferry runs the command without the kubeconfig of the user who runs the tests.
func keyferry(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	var out, errOut bytes.Buffer
	streams := genericiooptions.IOStreams{In: strings.NewReader(stdin), Out: &out, ErrOut: &errOut}
	code = cli.Run(t.Context(), streams, append([]string{"keyferry", "credential"}, args...))
	return code, out.String(), errOut.String()
}

// newSpider is a CB-Spider with the cluster tenant-1.
func newSpider(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, password, _ := req.BasicAuth(); password != planted || req.URL.Path != "/spider/cluster/tenant-1/token" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"message":"not with `+password+`"}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":%q,"expirationTimestamp":%q}}`,
			token, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// ca is a certificate, in PEM.
func ca() []byte {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// tenant1 is a file with a TargetCluster by CB-Spider, and its Secret.
func tenant1(t *testing.T) string {
	return fmt.Sprintf(`# a comment
apiVersion: keyferry.dev/v1alpha1
kind: TargetCluster
metadata: {name: tenant-1, namespace: fleet}
spec:
  endpoint: {server: https://203.0.113.7:6443, certificateAuthorityData: %s}
  defaultNamespace: apps
  access:
    type: Spider
    spider: {url: %q, cluster: tenant-1, connection: c, credentials: {name: spider}}
  issue: {type: Access}
---
apiVersion: v1
kind: Secret
metadata: {name: spider, namespace: fleet}
data: {username: dXNlcg==}
stringData: {password: %s}
`, jsonOf(ca()), newSpider(t), planted)
}

func jsonOf(value any) string {
	text, _ := json.Marshal(value)
	return string(text)
}

func TestOffline(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tenant-1.yaml")
	if err := os.WriteFile(file, []byte(tenant1(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := keyferry(t, "", "-f", file)
	var got clientauthentication.ExecCredential
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil {
		t.Fatalf("%d: %v: %s", code, err, stderr)
	}
	if got.Kind != "ExecCredential" || got.APIVersion != "client.authentication.k8s.io/v1" || got.Status.Token != token || got.Spec.Cluster != nil {
		t.Errorf("printed %s", stdout)
	}
	if life := time.Until(got.Status.ExpirationTimestamp.Time); life < 59*time.Minute || life > time.Hour {
		t.Errorf("ends in %v", life)
	}
}

func TestOutput(t *testing.T) {
	file := tenant1(t)
	if code, stdout, stderr := keyferry(t, file, "-f", "-", "-o", "token"); code != 0 || stdout != token+"\n" {
		t.Errorf("token: %d %q %s", code, stdout, stderr)
	}
	_, stdout, stderr := keyferry(t, file, "-f", "-", "--target=fleet/tenant-1", "--output=kubeconfig")
	config, err := clientcmd.Load([]byte(stdout))
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	if err := clientcmd.ConfirmUsable(*config, ""); err != nil {
		t.Error(err)
	}
	current := config.Contexts[config.CurrentContext]
	cluster, user := config.Clusters[current.Cluster], config.AuthInfos[current.AuthInfo]
	if cluster.Server != "https://203.0.113.7:6443" || len(cluster.CertificateAuthorityData) == 0 || user.Token != token || current.Namespace != "apps" {
		t.Errorf("printed %s", stdout)
	}
	if code, _, stderr := keyferry(t, file, "-f", "-", "-o", "xml"); code != cli.ExitUsage || !strings.Contains(stderr, "use json, yaml, token or kubeconfig") {
		t.Errorf("yaml: %d %s", code, stderr)
	}
}

// TestOfKubectl: what kubectl prints, a List in JSON with the fields that servers add, is
// understood.
func TestOfKubectl(t *testing.T) {
	items := []string{
		`{"apiVersion":"keyferry.dev/v1alpha1","kind":"TargetCluster","metadata":{"name":"tenant-1","generation":3,"resourceVersion":"7","managedFields":[]},"status":{"conditions":[]},` +
			`"spec":{"endpoint":{"server":"https://203.0.113.7","certificateAuthorityData":` + jsonOf(ca()) + `},"issue":{"type":"Access"},` +
			`"access":{"type":"Spider","spider":{"url":"` + newSpider(t) + `","cluster":"tenant-1","connection":"c","credentials":{"name":"spider"}}}}}`,
		`{"apiVersion":"v1","kind":"Secret","type":"Opaque","metadata":{"name":"spider","uid":"1"},"data":{"username":"dXNlcg==","password":` + jsonOf([]byte(planted)) + `}}`,
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"other"}}`,
	}
	list := `{"apiVersion":"v1","kind":"List","items":[` + strings.Join(items, ",") + `]}`
	if code, stdout, stderr := keyferry(t, list, "-f", "-", "-o", "token", "-n", "fleet"); code != 0 || stdout != token+"\n" {
		t.Errorf("%d %q %s", code, stdout, stderr)
	}
}

// TestOwnIdentity: offline it is the user's own.
func TestOwnIdentity(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIA1")
	t.Setenv("AWS_SECRET_ACCESS_KEY", planted)
	file := `
apiVersion: keyferry.dev/v1alpha1
kind: TargetCluster
metadata: {name: tenant-1}
spec:
  endpoint: {server: https://203.0.113.7, certificateAuthorityData: ` + jsonOf(ca()) + `}
  access: {type: EKS, eks: {clusterName: tenant-1, region: eu-central-1, identity: Ambient}}
  issue: {type: Access}
`
	if code, stdout, stderr := keyferry(t, file, "-f", "-", "-o", "token"); code != 0 || !strings.HasPrefix(stdout, "k8s-aws-v1.") {
		t.Errorf("%d %q %s", code, stdout, stderr)
	}
}

func TestFailures(t *testing.T) {
	for name, test := range map[string]struct {
		change func(string) string
		args   []string
		says   string
	}{
		"no TargetCluster": {func(s string) string { _, after, _ := strings.Cut(s, "---"); return after }, nil, "standard input: the file contains no TargetCluster (keyferry.dev/v1alpha1)"},
		"two":              {func(s string) string { return s + "---\n" + strings.Replace(s, "name: tenant-1", "name: tenant-2", 1) }, nil, "document 3: TargetClusters fleet/tenant-1 and fleet/tenant-2 are in one file"},
		"another":          {nil, []string{"--target=fleet/tenant-2"}, "has TargetCluster fleet/tenant-1, but fleet/tenant-2 is requested"},
		"no Secret":        {func(s string) string { before, _, _ := strings.Cut(s, "---"); return before }, nil, "Secret fleet/spider, to which spec.access.spider.credentials.name refers, does not exist"},
		"Secret elsewhere": {func(s string) string {
			return strings.Replace(s, "name: spider, namespace: fleet", "name: spider, namespace: other", 1)
		}, nil, "Secret fleet/spider, to which"},
		"no name":       {func(s string) string { return strings.Replace(s, "name: tenant-1, namespace", "namespace", 1) }, nil, "document 1: TargetCluster: metadata.name is missing"},
		"unknown field": {func(s string) string { return strings.Replace(s, "stringData", "strings", 1) }, nil, `document 2: Secret: unknown field "strings"`},
		"a list":        {func(s string) string { return strings.Replace(s, "password: "+planted, "password: ["+planted+"]", 1) }, nil, "document 2: Secret: field Secret.stringData"},
		"no base64":     {func(s string) string { return strings.Replace(s, "dXNlcg==", planted, 1) }, nil, "values of data are base64"},
		"an alias":      {func(s string) string { return strings.Replace(s, "password: ", "password: *", 1) }, nil, "document 2: "},
		"malformed":     {func(s string) string { return strings.Replace(s, "stringData: {", "stringData: ", 1) }, nil, "document 2: line "},
		"refused":       {func(s string) string { return strings.Replace(s, planted, "another-planted", 1) }, nil, "401 Unauthorized"},
		"revocable": {func(s string) string {
			return strings.Replace(s, "{type: Access}", "{type: TokenRequest, tokenRequest: {serviceAccount: {type: Mirror}, revocable: true}}", 1)
		}, nil, "with -f there is no such cluster: remove create and revocable"},
		"Mirror of nobody": {func(s string) string {
			return strings.Replace(s, "{type: Access}", "{type: TokenRequest, tokenRequest: {serviceAccount: {type: Mirror}}}", 1)
		}, nil, "--service-account NAMESPACE/NAME"},
		"not of this version": {func(s string) string { return strings.Replace(s, "type: Access", "type: Other", 1) }, nil, "spec.issue.type Other is not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			file := tenant1(t)
			if test.change != nil {
				file = test.change(file)
			}
			code, stdout, stderr := keyferry(t, file, append([]string{"-f", "-"}, test.args...)...)
			if code != cli.ExitFailed || stdout != "" || !strings.Contains(stderr, test.says) {
				t.Errorf("got %d, %q and %q, want that it says %q", code, stdout, stderr, test.says)
			}
			if strings.Contains(stderr, "planted") {
				t.Errorf("a secret is in %s", stderr)
			}
			if strings.Count(stderr, "\n") != 1 {
				t.Errorf("more than a sentence: %s", stderr)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"nothing":               {nil, "use --target NAMESPACE/NAME to ask the broker, or -f FILE"},
		"target":                {[]string{"--target=tenant-1"}, `--target is "tenant-1": write it as NAMESPACE/NAME`},
		"both":                  {[]string{"-f", "-", "--broker=https://broker"}, "filename broker"},
		"account of the broker": {[]string{"--target=fleet/tenant-1", "--service-account=app/web"}, "--service-account requires -f"},
		"account":               {[]string{"-f", "-", "--service-account=web"}, "--service-account is"},
		"argument":              {[]string{"tenant-1"}, "unknown command"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, _, stderr := keyferry(t, "", test.args...); code != cli.ExitUsage || !strings.Contains(stderr, test.says) {
				t.Errorf("got %d and %s, want that it says %q", code, stderr, test.says)
			}
		})
	}
}

func TestCompletion(t *testing.T) {
	var out bytes.Buffer
	cli.Run(t.Context(), genericiooptions.IOStreams{Out: &out, ErrOut: io.Discard}, []string{"keyferry", "__complete", "credential", "--output", ""})
	for _, form := range []string{"json\t", "token\t", "kubeconfig\t"} {
		if !strings.Contains(out.String(), form) {
			t.Errorf("completes %q", out.String())
		}
	}
}

// execInfo is what a client sets that talks to the server.
func execInfo(version, server, config string) string {
	return `{"apiVersion":"client.authentication.k8s.io/` + version + `","kind":"ExecCredential","spec":{"interactive":false,"cluster":{"server":"` + server + `","config":` + config + `}}}`
}

func TestAsAPlugin(t *testing.T) {
	file := tenant1(t)
	for name, test := range map[string]struct {
		info string
		code int
		says string
	}{
		"v1":                {execInfo("v1", "https://203.0.113.7:6443", "null"), 0, ""},
		"v1beta1":           {execInfo("v1beta1", "https://203.0.113.7:6443/", "null"), 0, ""},
		"no cluster":        {`{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","spec":{"interactive":false}}`, 0, ""},
		"named":             {execInfo("v1", "https://203.0.113.7:6443", `{"targetCluster":"fleet/tenant-1"}`), 0, ""},
		"another's config":  {execInfo("v1", "https://203.0.113.7:6443", `["planted"]`), 0, ""},
		"another server":    {execInfo("v1", "https://203.0.113.8:6443", "null"), cli.ExitFailed, "TargetCluster fleet/tenant-1 has the server https://203.0.113.7:6443, but the client connects to https://203.0.113.8:6443"},
		"another port":      {execInfo("v1", "https://203.0.113.7", "null"), cli.ExitFailed, "https://203.0.113.7:443"},
		"another path":      {execInfo("v1", "https://203.0.113.7:6443/x", "null"), cli.ExitFailed, "but the client connects to"},
		"another target":    {execInfo("v1", "https://203.0.113.7:6443", `{"targetCluster":"fleet/tenant-2"}`), cli.ExitFailed, "fleet/tenant-2 is requested"},
		"plain http":        {execInfo("v1", "http://203.0.113.7:6443", "null"), cli.ExitUsage, `spec.cluster.server has the scheme "http"`},
		"no server":         {execInfo("v1", "", "null"), cli.ExitUsage, "spec.cluster.server"},
		"v1alpha1":          {execInfo("v1alpha1", "https://203.0.113.7:6443", "null"), cli.ExitUsage, "set the plugin's apiVersion to client.authentication.k8s.io/v1 or"},
		"no JSON":           {planted, cli.ExitUsage, "KUBERNETES_EXEC_INFO is not an ExecCredential in JSON"},
		"no name":           {execInfo("v1", "https://203.0.113.7:6443", `{"targetCluster":"tenant-1"}`), cli.ExitUsage, "write it as NAMESPACE/NAME"},
		"a name of numbers": {execInfo("v1", "https://203.0.113.7:6443", `{"targetCluster":7}`), cli.ExitUsage, "targetCluster is not a string"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBERNETES_EXEC_INFO", test.info)
			code, stdout, stderr := keyferry(t, file, "-f", "-")
			if code != test.code || !strings.Contains(stderr, test.says) || strings.Contains(stderr, "planted") {
				t.Fatalf("got %d and %s, want %d and that it says %q", code, stderr, test.code, test.says)
			}
			if code != 0 {
				if stdout != "" {
					t.Errorf("handed out %s", stdout)
				}
				return
			}
			var asked, answered struct{ APIVersion string }
			_ = json.Unmarshal([]byte(test.info), &asked)
			if err := json.Unmarshal([]byte(stdout), &answered); err != nil || asked != answered {
				t.Errorf("asked in %v, answered in %v: %v", asked, answered, err)
			}
		})
	}
}

// newBroker is a broker, and the identity of a Pod that it knows.
func newBroker(t *testing.T, answer http.HandlerFunc) (url, identity string) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer "+planted || req.Method != http.MethodPost || req.URL.Path != wire.TargetClusterPath("fleet", "tenant-1") {
			t.Errorf("%s %s with %d bytes of authorization", req.Method, req.URL, len(req.Header.Get("Authorization")))
		}
		answer(w, req)
	}))
	t.Cleanup(s.Close)
	identity = t.TempDir()
	for name, content := range map[string][]byte{
		"token":  []byte(planted),
		"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
	} {
		if err := os.WriteFile(filepath.Join(identity, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s.URL, identity
}

func TestFromTheBroker(t *testing.T) {
	// The broker's clock is an hour ahead.
	ahead := time.Now().Add(time.Hour).Truncate(time.Second)
	broker, identity := newBroker(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", ahead.UTC().Format(http.TimeFormat))
		answer := wire.ExecCredential{APIVersion: wire.APIVersion, Kind: wire.Kind}
		answer.Spec.Cluster = wire.Cluster{Server: "https://203.0.113.7:6443", CertificateAuthorityData: ca(),
			Config: wire.Config{Namespace: "apps", Delivery: wire.DeliveryProxy, IssuedAt: ahead, RefreshAt: ahead.Add(8 * time.Minute)}}
		answer.Status = wire.Status{Token: token, ExpirationTimestamp: ahead.Add(10 * time.Minute)}
		_ = json.NewEncoder(w).Encode(answer)
	})
	args := []string{"--broker", broker, "--identity-dir", identity}
	code, stdout, stderr := keyferry(t, "", append(args, "--target=fleet/tenant-1")...)
	var got clientauthentication.ExecCredential
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil {
		t.Fatalf("%d: %v: %s", code, err, stderr)
	}
	if life := time.Until(got.Status.ExpirationTimestamp.Time); got.Status.Token != token || life < 9*time.Minute || life > 10*time.Minute {
		t.Errorf("ends in %v: %s", life, stdout)
	}
	if _, stdout, _ := keyferry(t, "", append(args, "--target=fleet/tenant-1", "-o", "kubeconfig")...); !strings.Contains(stdout, "server: https://203.0.113.7:6443") {
		t.Errorf("printed %s", stdout)
	}

	t.Setenv("KUBERNETES_EXEC_INFO", execInfo("v1", "https://203.0.113.7:6443", `{"targetCluster":"fleet/tenant-1"}`))
	if code, stdout, stderr := keyferry(t, "", args...); code != 0 || !strings.Contains(stdout, token) {
		t.Errorf("as a plugin: %d %s", code, stderr)
	}
	t.Setenv("KUBERNETES_EXEC_INFO", execInfo("v1", "https://203.0.113.8:6443", `{"targetCluster":"fleet/tenant-1"}`))
	if code, stdout, stderr := keyferry(t, "", args...); code != cli.ExitFailed || stdout != "" || !strings.Contains(stderr, "but the client connects to") {
		t.Errorf("as a plugin for another server: %d %s", code, stderr)
	}
}

func TestTheBrokerRefuses(t *testing.T) {
	broker, identity := newBroker(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"kind":"Status","message":"app/web may not use TargetCluster fleet/tenant-1: grant it"}`)
	})
	code, stdout, stderr := keyferry(t, "", "--broker", broker, "--identity-dir", identity, "--target=fleet/tenant-1")
	if code != cli.ExitFailed || stdout != "" || !strings.Contains(stderr, "app/web may not use TargetCluster fleet/tenant-1: grant it") || strings.Contains(stderr, planted) {
		t.Errorf("got %d, %q and %s", code, stdout, stderr)
	}
	code, _, stderr = keyferry(t, "", "--broker", broker, "--identity-dir", t.TempDir(), "--target=fleet/tenant-1")
	if code != cli.ExitFailed || !strings.Contains(stderr, "run the command in a Pod that has both, or use -f FILE to issue offline") {
		t.Errorf("without an identity: %d %s", code, stderr)
	}
}

func FuzzExecInfo(f *testing.F) {
	for _, seed := range []string{"", "{}", planted, execInfo("v1", "https://203.0.113.7", "null"), execInfo("v1beta1", "a:1", `{"targetCluster":"a/b"}`), execInfo("v1", "https://["+planted, `{"targetCluster":{}}`)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		info, err := credential.ParseExecInfo(value)
		switch {
		case err != nil && len(err.Error()) > 1024:
			t.Errorf("an error of %d bytes", len(err.Error()))
		case err == nil && info.APIVersion != "client.authentication.k8s.io/v1" && info.APIVersion != "client.authentication.k8s.io/v1beta1":
			t.Errorf("answers in %q", info.APIVersion)
		case err == nil && info.Server != "" && !strings.HasPrefix(info.Server, "https://"):
			t.Errorf("is for %q", info.Server)
		}
	})
}
