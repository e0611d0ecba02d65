package credentials

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

// Defect 9: an address without a port or a scheme, with a path, or of IPv6 is taken apart wrongly.
func TestDefect09Endpoints(t *testing.T) {
	for server, want := range map[string]struct{ host, port, obstacle string }{
		"https://203.0.113.7:6443":                    {"203.0.113.7", "6443", ""},
		"https://api.example.com":                     {"api.example.com", "443", ""},
		"api.example.com:6443":                        {"api.example.com", "6443", ""},
		"api.example.com":                             {"api.example.com", "443", ""},
		"https://[2001:db8::7]:6443/":                 {"2001:db8::7", "6443", ""},
		"[2001:db8::7]":                               {"2001:db8::7", "443", ""},
		"https://rancher.example.com/k8s/clusters/c1": {"", "", "cannot express the path /k8s/clusters/c1"},
	} {
		t.Run(server, func(t *testing.T) {
			parsed, err := providers.ParseServer(server)
			if err != nil {
				t.Fatal(err)
			}
			endpoint := providers.Endpoint{Server: parsed.String()}
			why := obstacle(v1alpha1.CredentialTokenFile, endpoint, false)
			if want.obstacle != "" {
				if !strings.Contains(why, want.obstacle) || obstacle(v1alpha1.CredentialKubeconfig, endpoint, false) != "" || obstacle(v1alpha1.CredentialArgoCD, endpoint, false) != "" {
					t.Errorf("obstacle %q", why)
				}
				return
			}
			data, err := tokenFile(issuer.Issued{Credential: providers.Credential{Endpoint: endpoint}})
			if err != nil || why != "" || string(data[keyHost]) != want.host || string(data[keyPort]) != want.port {
				t.Errorf("host %q, port %q, obstacle %q, %v", data[keyHost], data[keyPort], why, err)
			}
		})
	}
}

func TestTokenFileCannotExpress(t *testing.T) {
	server := providers.Endpoint{Server: "https://203.0.113.7:6443"}
	named, proxied := server, server
	named.TLSServerName, proxied.ProxyURL = "kubernetes", "http://proxy.example.com:3128"
	for name, tt := range map[string]struct {
		endpoint    providers.Endpoint
		certificate bool
		want        string
	}{
		"a client certificate": {server, true, "client certificate"},
		"another name":         {named, false, "tlsServerName kubernetes"},
		"a proxy":              {proxied, false, "proxyURL"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := obstacle(v1alpha1.CredentialTokenFile, tt.endpoint, tt.certificate); !strings.Contains(got, tt.want) {
				t.Errorf("obstacle %q", got)
			}
		})
	}
	w := newWorld(t, v1alpha1.CredentialTokenFile)
	cluster := &v1alpha1.TargetCluster{}
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: w.fleet, Name: "tenant-1"}, cluster); err != nil {
		t.Fatal(err)
	}
	cluster.Spec.Endpoint = &v1alpha1.Endpoint{Server: "https://rancher.example.com/k8s/clusters/c1"}
	w.update(cluster)
	w.look()
	if message := w.condition(v1alpha1.ConditionIssued, metav1.ConditionFalse, reasonNotExpressible); !strings.Contains(message, "the path /k8s/clusters/c1 of the server: use kubeconfig") {
		t.Errorf("message %q", message)
	}
	if w.minted.Load() != 0 || w.secret(w.request) != nil {
		t.Error("issued nevertheless")
	}
}

// whoAmI lists what the account may list, which is nothing, and returns whom the target takes it for.
func whoAmI(t *testing.T, cfg *rest.Config) string {
	t.Helper()
	err := newClient(t, cfg).List(t.Context(), &corev1.ConfigMapList{}, client.InNamespace("kube-system"))
	if err == nil {
		t.Fatal("the account may list everything")
	}
	_, rest, _ := strings.Cut(err.Error(), `User "`)
	user, _, _ := strings.Cut(rest, `"`)
	return user
}

// TestFormsWork: with what the Secret holds, and nothing else, clients get into the target.
func TestFormsWork(t *testing.T) {
	read := map[v1alpha1.CredentialType]func(t *testing.T, secret *corev1.Secret) *rest.Config{
		v1alpha1.CredentialKubeconfig: func(t *testing.T, secret *corev1.Secret) *rest.Config {
			kubeconfig, err := clientcmd.NewClientConfigFromBytes(secret.Data["kubeconfig"])
			if err != nil {
				t.Fatal(err)
			}
			if ns, _, err := kubeconfig.Namespace(); err != nil || ns != "default" {
				t.Errorf("namespace %q, %v", ns, err)
			}
			cfg, err := kubeconfig.ClientConfig()
			if err != nil {
				t.Fatal(err)
			}
			return cfg
		},
		v1alpha1.CredentialTokenFile: func(_ *testing.T, secret *corev1.Secret) *rest.Config {
			return &rest.Config{
				Host:            "https://" + string(secret.Data["KUBERNETES_SERVICE_HOST"]) + ":" + string(secret.Data["KUBERNETES_SERVICE_PORT"]),
				BearerToken:     string(secret.Data["TOKEN_FILE"]),
				TLSClientConfig: rest.TLSClientConfig{CAData: secret.Data["KUBERNETES_CA_DATA"]},
			}
		},
		v1alpha1.CredentialArgoCD: func(t *testing.T, secret *corev1.Secret) *rest.Config {
			if secret.Labels["argocd.argoproj.io/secret-type"] != "cluster" || string(secret.Data["name"]) != "web" {
				t.Errorf("labels %v, name %q", secret.Labels, secret.Data["name"])
			}
			var config struct {
				BearerToken     string               `json:"bearerToken"`
				TLSClientConfig rest.TLSClientConfig `json:"tlsClientConfig"`
			}
			if err := json.Unmarshal(secret.Data["config"], &config); err != nil {
				t.Fatal(err)
			}
			return &rest.Config{Host: string(secret.Data["server"]), BearerToken: config.BearerToken, TLSClientConfig: config.TLSClientConfig}
		},
	}
	for form, read := range read {
		t.Run(string(form), func(t *testing.T) {
			w := newWorld(t, form)
			w.ready()
			cfg := read(t, w.secret(w.request))
			if user, want := whoAmI(t, cfg), "system:serviceaccount:"+w.target.namespace+":robot"; user != want {
				t.Errorf("the target takes it for %q, want %q", user, want)
			}
		})
	}
}

// TestArgoCDConfig: the fields that Argo CD documents, for all that an endpoint and a credential can have.
func TestArgoCDConfig(t *testing.T) {
	data, err := argoCD("tenant-1", issuer.Issued{Credential: providers.Credential{
		ClientCertificate: []byte("certificate"), ClientKey: []byte("key"),
		Endpoint: providers.Endpoint{
			Server: "https://203.0.113.7:6443/a", CertificateAuthority: []byte("authority"), TLSServerName: "kubernetes", ProxyURL: "socks5://proxy:1080",
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"tlsClientConfig":{"insecure":false,"serverName":"kubernetes","caData":"YXV0aG9yaXR5","certData":"Y2VydGlmaWNhdGU=","keyData":"a2V5"},"proxyUrl":"socks5://proxy:1080"}`
	if string(data["config"]) != want || string(data["server"]) != "https://203.0.113.7:6443/a" || string(data["name"]) != "tenant-1" {
		t.Errorf("data %q", data)
	}
	if keys := slices.Sorted(maps.Keys(data)); !slices.Equal(keys, []string{"config", "name", "server"}) {
		t.Errorf("keys %q", keys)
	}
}

// TestKubeconfigExpressesEverything: nothing of an endpoint is lost.
func TestKubeconfigExpressesEverything(t *testing.T) {
	request := &v1alpha1.CredentialRequest{Spec: v1alpha1.CredentialRequestSpec{
		TargetCluster: v1alpha1.ObjectReference{Name: "tenant-1"}, Secret: v1alpha1.CredentialSecret{Key: "value"},
	}}
	data, err := kubeconfig(request, issuer.Issued{Namespace: "robots", Credential: providers.Credential{
		ClientCertificate: []byte("certificate"), ClientKey: []byte("key"),
		Endpoint: providers.Endpoint{Server: "https://203.0.113.7:6443/a", CertificateAuthority: []byte("authority"), TLSServerName: "kubernetes", ProxyURL: "http://proxy:3128"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.Load(data["value"])
	if err != nil {
		t.Fatal(err)
	}
	cluster, user := config.Clusters["tenant-1"], config.AuthInfos["tenant-1"]
	if cluster.Server != "https://203.0.113.7:6443/a" || cluster.TLSServerName != "kubernetes" || cluster.ProxyURL != "http://proxy:3128" || string(cluster.CertificateAuthorityData) != "authority" ||
		string(user.ClientCertificateData) != "certificate" || string(user.ClientKeyData) != "key" || user.Token != "" ||
		config.CurrentContext != "tenant-1" || config.Contexts["tenant-1"].Namespace != "robots" {
		t.Errorf("kubeconfig %s", data["value"])
	}
}
