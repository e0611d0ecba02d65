package kubeconfig_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/kubeconfig"
	"github.com/keyferry/keyferry/providers/providertest"
)

const planted = "planted-secret"

// pair returns a self-signed certificate that ends at notAfter, and its key.
func pair(t testing.TB, notAfter time.Time) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: notAfter.Add(-time.Hour), NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func jwt(notAfter time.Time) string {
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, notAfter.Unix())) + "." + planted
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// document is a kubeconfig with these fields of its current cluster and user, and others that are
// not current.
func document(cluster, user string) string {
	return `apiVersion: v1
kind: Config
current-context: admin@target
contexts:
- {name: other, context: {cluster: other, user: other}}
- {name: admin@target, context: {cluster: target, user: admin}}
clusters:
- {name: other, cluster: {server: "https://other.invalid"}}
- {name: target, cluster: {` + cluster + `}}
users:
- {name: other, user: {token: other}}
- {name: admin, user: {` + user + `}}
`
}

const server = `server: "https://203.0.113.7:6443"`

func plain(cluster, user string) kubeconfig.Config {
	return kubeconfig.Config{Data: map[string][]byte{"kubeconfig": []byte(document(cluster, user))}}
}

func argo(server, config string) kubeconfig.Config {
	return kubeconfig.Config{
		Labels: map[string]string{"argocd.argoproj.io/secret-type": "cluster"},
		Data:   map[string][]byte{"name": []byte("target"), "server": []byte(server), "config": []byte(config)},
	}
}

func keyed(key string, cfg kubeconfig.Config, data ...string) kubeconfig.Config {
	cfg.Key = key
	for i := 0; i+1 < len(data); i += 2 {
		cfg.Data[data[i]] = []byte(data[i+1])
	}
	return cfg
}

func TestNew(t *testing.T) {
	certificate, key := pair(t, time.Now().Add(time.Hour))
	whole := endpoint.Endpoint{
		Server:               "https://203.0.113.7:6443",
		CertificateAuthority: []byte("ca"),
		TLSServerName:        "api.example.com",
		ProxyURL:             "http://proxy.example.com:3128",
	}
	bare := endpoint.Endpoint{Server: "https://203.0.113.7:6443"}
	tokenOnly := providers.Credential{Token: "t"}
	certificateOnly := providers.Credential{ClientCertificate: []byte(certificate), ClientKey: []byte(key)}
	clusterAPI := kubeconfig.Config{Data: map[string][]byte{"value": []byte(document(server, "token: t"))}}
	argoPair, err := json.Marshal(map[string]any{"tlsClientConfig": map[string]any{"certData": []byte(certificate), "keyData": []byte(key)}})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cfg        kubeconfig.Config
		endpoint   endpoint.Endpoint
		credential providers.Credential
	}{
		"all of the cluster": {
			plain(server+`, certificate-authority-data: `+b64("ca")+`, tls-server-name: api.example.com, proxy-url: "http://proxy.example.com:3128"`, "token: t"),
			whole, tokenOnly,
		},
		"certificate": {
			plain(server, "client-certificate-data: "+b64(certificate)+", client-key-data: "+b64(key)), bare, certificateOnly,
		},
		"certificate and token, as AKS writes them": {
			plain(server, "token: t, client-certificate-data: "+b64(certificate)+", client-key-data: "+b64(key)), bare, certificateOnly,
		},
		"server without port": {
			plain(`server: "https://api.example.com/"`, "token: t"), endpoint.Endpoint{Server: "https://api.example.com:443"}, tokenOnly,
		},
		"Cluster API":                  {clusterAPI, bare, tokenOnly},
		"kubeconfig wins over value":   {keyed("", plain(server, "token: t"), "value", "no kubeconfig"), bare, tokenOnly},
		"key given":                    {keyed("mine", plain(server, "token: no"), "mine", document(server, "token: t")), bare, tokenOnly},
		"key given, Argo CD label":     {keyed("mine", argo("", ""), "mine", document(server, "token: t")), bare, tokenOnly},
		"Argo CD":                      {argo("https://203.0.113.7:6443", `{"bearerToken":"t","tlsClientConfig":{"caData":"`+b64("ca")+`","serverName":"api.example.com"},"proxyUrl":"http://proxy.example.com:3128"}`), whole, tokenOnly},
		"Argo CD, certificate":         {argo("https://203.0.113.7:6443", string(argoPair)), bare, certificateOnly},
		"Argo CD, null awsAuthConfig":  {argo("https://203.0.113.7:6443", `{"bearerToken":"t","awsAuthConfig":null}`), bare, tokenOnly},
		"Argo CD, empty awsAuthConfig": {argo("https://203.0.113.7:6443", `{"bearerToken":"t","awsAuthConfig":{}}`), bare, tokenOnly},
		"files beside their data": {
			plain(server+", certificate-authority: /a, certificate-authority-data: "+b64("ca"), "client-certificate: /a, client-key: /a, client-certificate-data: "+b64(certificate)+", client-key-data: "+b64(key)),
			endpoint.Endpoint{Server: "https://203.0.113.7:6443", CertificateAuthority: []byte("ca")}, certificateOnly,
		},
		"JSON":                          {keyed("", plain("", ""), "kubeconfig", `{"current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],"clusters":[{"name":"a","cluster":{"server":"https://203.0.113.7:6443"}}],"users":[{"name":"a","user":{"token":"t"}}]}`), bare, tokenOnly},
		"insecure, but another cluster": {keyed("", plain(server, "token: t"), "kubeconfig", strings.Replace(document(server, "token: t"), `{server: "https://other.invalid"}`, `{server: "https://other.invalid", insecure-skip-tls-verify: true}`, 1)), bare, tokenOnly},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := kubeconfig.New(test.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if !p.Endpoint().Equal(test.endpoint) {
				t.Errorf("endpoint %v, want %v", p.Endpoint(), test.endpoint)
			}
			got, err := p.Issue(t.Context(), providers.Request{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Token != test.credential.Token || !bytes.Equal(got.ClientCertificate, test.credential.ClientCertificate) ||
				!bytes.Equal(got.ClientKey, test.credential.ClientKey) || !got.Endpoint.Equal(test.endpoint) {
				t.Errorf("got another credential: %v", got)
			}
			if p.IsCertificate() != (len(got.ClientCertificate) > 0) {
				t.Errorf("IsCertificate() = %v", p.IsCertificate())
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	certificate, key := pair(t, time.Now().Add(time.Hour))
	_, anotherKey := pair(t, time.Now().Add(time.Hour))
	withToken := func(field string) kubeconfig.Config { return plain(server, "token: "+planted+", "+field) }
	inCluster := func(field string) kubeconfig.Config { return plain(server+", "+field, "token: "+planted) }
	document := func(text string) kubeconfig.Config {
		return kubeconfig.Config{Data: map[string][]byte{"kubeconfig": []byte(text)}}
	}
	for name, test := range map[string]struct {
		cfg  kubeconfig.Config
		want []string // parts of the message: the field and the fix
	}{
		"certificate-authority": {inCluster("certificate-authority: /etc/ca.crt"), []string{`cluster "target"`, "certificate-authority", "--flatten"}},
		"insecure":              {inCluster("insecure-skip-tls-verify: true"), []string{"insecure-skip-tls-verify", "certificate-authority-data"}},
		"http":                  {plain(`server: "http://203.0.113.7"`, "token: "+planted), []string{"server", "https"}},
		"user in server":        {plain(`server: "https://u:`+planted+`@203.0.113.7"`, "token: t"), []string{"server", "user"}},
		"no server":             {plain(`tls-server-name: a`, "token: "+planted), []string{"server is empty"}},
		"client-certificate":    {withToken("client-certificate: /a"), []string{`user "admin"`, "client-certificate", "--flatten"}},
		"client-key":            {withToken("client-key: /a"), []string{"client-key", "--flatten"}},
		"tokenFile":             {withToken("tokenFile: /a"), []string{"tokenFile", "--flatten"}},
		"password":              {withToken("username: u, password: " + planted), []string{"username and password", "token"}},
		"impersonation":         {withToken("as: root"), []string{"as (impersonation)", "permissions"}},
		"impersonated groups":   {withToken("as-groups: [g]"), []string{"as (impersonation)"}},
		"exec of EKS":           {plain(server, "exec: {apiVersion: client.authentication.k8s.io/v1, command: /usr/bin/aws, args: [--token, "+planted+"], interactiveMode: Never}"), []string{"exec", "EKS"}},
		"exec of GKE":           {plain(server, "exec: {apiVersion: client.authentication.k8s.io/v1, command: gke-gcloud-auth-plugin, interactiveMode: Never}"), []string{"exec", "GKE"}},
		"exec of something":     {plain(server, "exec: {apiVersion: client.authentication.k8s.io/v1, command: /tmp/"+planted+", interactiveMode: Never}"), []string{"exec", "access type of that cloud"}},
		"exec of Windows":       {plain(server, `exec: {apiVersion: client.authentication.k8s.io/v1, command: 'C:\az\kubelogin.exe', interactiveMode: Never}`), []string{"exec", "AKS"}},
		"exec of CB-Spider":     {plain(server, "exec: {apiVersion: client.authentication.k8s.io/v1, command: curl, args: [-s, \"http://"+planted+"/spider/cluster/a/token?ConnectionName=b\"], interactiveMode: Never}"), []string{"exec", "Spider"}},
		"exec of CB-Tumblebug":  {plain(server, "exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, \"curl "+planted+"/tumblebug/ns/default/k8sCluster/a/token\"], interactiveMode: Never}"), []string{"exec", "Tumblebug"}},
		"exec of any curl":      {plain(server, "exec: {apiVersion: client.authentication.k8s.io/v1, command: curl, args: [https://"+planted+"], interactiveMode: Never}"), []string{"exec", "access type of that cloud"}},
		"UTF-16":                {document("\xff\xfea\x00"), []string{"UTF-8"}},
		"NUL":                   {document("a: \x00"), []string{"UTF-8"}},
		"auth-provider":         {plain(server, "auth-provider: {name: azure}"), []string{"auth-provider", "AKS"}},
		"no credential":         {plain(server, ""), []string{"no credential"}},
		"line end in token":     {plain(server, `token: "`+planted+`\n"`), []string{"token", "newlines"}},
		"certificate, no key":   {plain(server, "client-certificate-data: "+b64(certificate)), []string{"only one"}},
		"key, no certificate":   {plain(server, "client-key-data: "+b64(key)), []string{"only one"}},
		"pair of two":           {plain(server, "client-certificate-data: "+b64(certificate)+", client-key-data: "+b64(anotherKey)), []string{"belong together"}},
		"no current-context":    {document("{}"), []string{"current-context"}},
		"no such context":       {document("current-context: gone"), []string{`"gone"`}},
		"no such cluster":       {document(`{current-context: a, contexts: [{name: a, context: {cluster: gone, user: a}}]}`), []string{`cluster "gone"`}},
		"no such user":          {document(`{current-context: a, clusters: [{name: a, cluster: {server: "https://a"}}], contexts: [{name: a, context: {cluster: a, user: gone}}]}`), []string{`user "gone"`}},
		"no YAML":               {document("a: b\n\t" + planted + ": ["), []string{"YAML", "line 2"}},
		"aliases":               {document("clusters: &all [{name: a}]\nusers: *all"), []string{"aliases", "replace the aliases"}},
		"no kubeconfig":         {document(planted), []string{"is not a kubeconfig: it has no fields"}},
		"a list":                {document("[" + planted + "]"), []string{"is not a kubeconfig: it has no fields"}},
		"another kind":          {document("apiVersion: v1\nkind: Secret"), []string{"is not a kubeconfig: set apiVersion: v1 and kind: Config"}},
		"a key that is a list":  {document("? [" + planted + "]\n: b"), []string{"is YAML, but client-go cannot read it"}},
		"wrong type":            {document("clusters: " + planted), []string{"clusters has the type string, but it must be a list"}},
		"name without quotes":   {document("contexts: [{name: true}]"), []string{"contexts.name has the type bool, but it must be text: put it into quotes"}},
		"token without quotes":  {withToken("password: 20261130"), []string{"users.user.password has the type number, but it must be text"}},
		"flag in quotes":        {plain(server+`, insecure-skip-tls-verify: "`+planted+`"`, "token: t"), []string{"clusters.cluster.insecure-skip-tls-verify has the type string, but it must be true or false"}},
		"CA in PEM":             {plain(server+`, certificate-authority-data: "-----BEGIN CERTIFICATE-----\n`+planted+`"`, "token: t"), []string{`cluster "target": certificate-authority-data is PEM`, "base64 -w0"}},
		"CA without padding":    {plain(server+`, certificate-authority-data: "YWJjZA"`, "token: t"), []string{`cluster "target": certificate-authority-data must be base64: illegal base64 data at input byte 4`}},
		"key with a blank":      {plain(server, "client-key-data: 'YWJj ZGVm'"), []string{`user "admin": client-key-data must be base64: illegal base64 data at input byte 4`}},
		"no key":                {kubeconfig.Config{Data: map[string][]byte{"config": []byte(planted), "ca.crt": nil}}, []string{"kubeconfig or value", "ca.crt, config", "spec.access.kubeconfig.key"}},
		"empty Secret":          {kubeconfig.Config{}, []string{"it is empty"}},
		"given key missing":     {keyed("gone", plain(server, "token: t")), []string{"gone", "kubeconfig"}},
		"Argo CD, no config":    {argo("https://203.0.113.7", ""), []string{"Argo CD", "no key config"}},
		"Argo CD, no server":    {argo("", "{}"), []string{"no key server"}},
		"Argo CD, no JSON":      {argo("https://203.0.113.7", planted), []string{"key config: is not JSON, from byte 1 on"}},
		"Argo CD, wrong type":   {argo("https://203.0.113.7", `{"tlsClientConfig":{"insecure":"`+planted+`"}}`), []string{"key config: tlsClientConfig.insecure has the type string, but it must be true or false"}},
		"Argo CD, a number":     {argo("https://203.0.113.7", `{"bearerToken":20261130}`), []string{"key config: bearerToken has the type number, but it must be text"}},
		"Argo CD, no base64":    {argo("https://203.0.113.7", `{"tlsClientConfig":{"caData":"`+planted+`"}}`), []string{"key config: tlsClientConfig.caData must be base64: illegal base64 data at input byte 7"}},
		"Argo CD, PEM":          {argo("https://203.0.113.7", `{"tlsClientConfig":{"keyData":"-----BEGIN PRIVATE KEY-----`+planted+`"}}`), []string{"key config: tlsClientConfig.keyData is PEM"}},
		"Argo CD, insecure":     {argo("https://203.0.113.7", `{"tlsClientConfig":{"insecure":true}}`), []string{"tlsClientConfig.insecure", "caData"}},
		"Argo CD, AWS":          {argo("https://203.0.113.7", `{"awsAuthConfig":{"clusterName":"a"}}`), []string{"awsAuthConfig", "EKS"}},
		"Argo CD, exec":         {argo("https://203.0.113.7", `{"execProviderConfig":{"command":"argocd-k8s-auth"}}`), []string{"execProviderConfig"}},
		"Argo CD, password":     {argo("https://203.0.113.7", `{"username":"u","password":"`+planted+`"}`), []string{"username and password"}},
		"Argo CD, in cluster":   {argo("https://kubernetes.default.svc", `{"tlsClientConfig":{}}`), []string{"no credential"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.cfg.Secret = "fleet/tenant-1"
			_, err := kubeconfig.New(test.cfg)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(test.want, "Secret fleet/tenant-1") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), planted) || strings.Contains(err.Error(), "20261130") {
				t.Errorf("a secret in %q", err)
			}
		})
	}
}

// TestPrograms: the message names the access type that gets the same credential, or what else fits.
func TestPrograms(t *testing.T) {
	const spider = ". ~/.cb-spider/.spider-credential && curl -s -u \"$SPIDER_USERNAME:$SPIDER_PASSWORD\" \"http://0.0.0.0:1024/spider/cluster/c/token?ConnectionName=a\""
	for name, test := range map[string]struct {
		command string
		args    []string
		want    string
	}{
		"aws":                      {"aws", []string{"eks", "get-token"}, "EKS"},
		"aws-iam-authenticator":    {"aws-iam-authenticator", []string{"token", "-i", "c"}, "EKS"},
		"GKE":                      {"gke-gcloud-auth-plugin", nil, "GKE"},
		"kubelogin of Azure":       {"kubelogin", []string{"get-token", "--server-id", "x"}, "it is kubelogin of Azure: use the access type AKS"},
		"kubelogin of int128":      {"kubelogin", []string{"get-token", "--oidc-issuer-url=https://" + planted}, "it is kubelogin for OpenID Connect: it logs a person in"},
		"kubectl oidc-login":       {"kubectl", []string{"oidc-login", "get-token", "--oidc-issuer-url=https://" + planted}, "it logs a person in: use a kubeconfig with the token of a ServiceAccount"},
		"NCP":                      {"ncp-iam-authenticator", []string{"token"}, "NCP"},
		"CB-Spider":                {"sh", []string{"-c", spider}, "it is a request to CB-Spider: use the access type Spider"},
		"CB-Tumblebug":             {"curl", []string{"http://" + planted + "/tumblebug/ns/default/k8sCluster/a/token"}, "Tumblebug"},
		"Argo CD on EKS":           {"argocd-k8s-auth", []string{"aws", "--cluster-name", "a"}, "EKS"},
		"Argo CD on GKE":           {"argocd-k8s-auth", []string{"gcp"}, "GKE"},
		"Argo CD on AKS":           {"argocd-k8s-auth", []string{"azure"}, "AKS"},
		"Gardener":                 {"kubectl-gardenlogin", []string{"get-client-certificate"}, "request the Shoot's adminkubeconfig"},
		"Gardener through kubectl": {"kubectl", []string{"gardenlogin", "get-client-certificate"}, "request the Shoot's adminkubeconfig"},
		"Teleport":                 {"/usr/local/bin/tsh", []string{"kube", "credentials"}, "give the address of the cluster itself"},
		"another":                  {"/tmp/" + planted, []string{planted}, "Exec with a plugin that the operator provides"},
		"kubectl alone":            {"kubectl", nil, "Exec with a plugin that the operator provides"},
	} {
		t.Run(name, func(t *testing.T) {
			exec, err := json.Marshal(map[string]any{"apiVersion": "client.authentication.k8s.io/v1", "command": test.command, "args": test.args, "interactiveMode": "Never"})
			if err != nil {
				t.Fatal(err)
			}
			argoConfig, err := json.Marshal(map[string]any{"execProviderConfig": map[string]any{"command": test.command, "args": test.args}})
			if err != nil {
				t.Fatal(err)
			}
			for field, cfg := range map[string]kubeconfig.Config{"exec": plain(server, "exec: "+string(exec)), "execProviderConfig": argo("https://203.0.113.7", string(argoConfig))} {
				if _, err := kubeconfig.New(cfg); err == nil || !strings.Contains(err.Error(), field+" runs a program") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), planted) {
					t.Errorf("got %v, want %s", err, test.want)
				}
			}
		})
	}
}

func TestNotAfter(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	certificate, key := pair(t, now.Add(time.Hour))
	for name, test := range map[string]struct {
		user string
		want time.Time
	}{
		"JWT":         {"token: " + jwt(now.Add(30*time.Minute)), now.Add(30 * time.Minute)},
		"opaque":      {"token: t", now.Add(5 * time.Minute)},
		"certificate": {"client-certificate-data: " + b64(certificate) + ", client-key-data: " + b64(key), now.Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := plain(server, test.user)
			cfg.Now = func() time.Time { return now }
			p, err := kubeconfig.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.Issue(t.Context(), providers.Request{})
			if err != nil || !got.NotAfter.Equal(test.want) {
				t.Errorf("got %v, %v, want %v", got.NotAfter, err, test.want)
			}
		})
	}
}

func TestEnded(t *testing.T) {
	certificate, key := pair(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	p, err := kubeconfig.New(plain(server, "client-certificate-data: "+b64(certificate)+", client-key-data: "+b64(key)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Issue(t.Context(), providers.Request{})
	if err == nil || !strings.Contains(err.Error(), "client certificate") || !strings.Contains(err.Error(), "2026-01-02T03:04:05Z") {
		t.Errorf("got %v, want when it ended", err)
	}
}

func TestConformance(t *testing.T) {
	with := func(user string) func(*testing.T) providers.Provider {
		return func(t *testing.T) providers.Provider {
			p, err := kubeconfig.New(plain(server, user))
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	providertest.Run(t, providertest.Suite{
		New:     with("token: " + planted),
		Refused: with("token: " + jwt(time.Now().Add(-time.Minute))),
		Secrets: []string{planted},
	})
}

func FuzzNew(f *testing.F) {
	f.Add(false, "", document(server, "token: t"))
	f.Add(false, "", document(server+", insecure-skip-tls-verify: true", "token: t"))
	f.Add(false, "", document(server, "exec: {command: aws}"))
	f.Add(false, "", "a: &a [*a]")
	f.Add(false, "", "users: [{name: a, user: null}]\nclusters: [null]")
	f.Add(true, "https://203.0.113.7", `{"bearerToken":"t","tlsClientConfig":{"caData":"Y2E="}}`)
	f.Add(true, "[::1]", `{"execProviderConfig":{}}`)
	f.Fuzz(func(t *testing.T, isArgo bool, address, content string) {
		cfg := kubeconfig.Config{Secret: "a/b", Data: map[string][]byte{"kubeconfig": []byte(content)}}
		if isArgo {
			cfg = argo(address, content)
		}
		p, err := kubeconfig.New(cfg)
		if err != nil {
			return
		}
		if again, err := endpoint.Parse(p.Endpoint().Server); err != nil || again.String() != p.Endpoint().Server {
			t.Errorf("server %q is not in its one form", p.Endpoint().Server)
		}
		if got, err := p.Issue(t.Context(), providers.Request{}); err == nil && (got.Token != "") == (len(got.ClientCertificate) > 0) {
			t.Error("neither or both of token and certificate")
		}
	})
}
