package credentials

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/testenv"
)

func TestTokenFileCannotExpress(t *testing.T) {
	server := endpoint.Endpoint{Server: "https://203.0.113.7:6443"}
	named, proxied := server, server
	named.TLSServerName, proxied.ProxyURL = "kubernetes", "http://proxy.example.com:3128"
	for name, tt := range map[string]struct {
		endpoint    endpoint.Endpoint
		certificate bool
		want        string
	}{
		"a client certificate": {server, true, "client certificate"},
		"another name":         {named, false, "tlsServerName kubernetes"},
		"a proxy":              {proxied, false, "proxyURL"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := stored.Obstacle(v1alpha1.CredentialTokenFile, tt.endpoint, tt.certificate); !strings.Contains(got, tt.want) {
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
	if message := w.condition(v1alpha1.ConditionIssued, metav1.ConditionFalse, v1alpha1.ReasonNotExpressible); !strings.Contains(message, "the path /k8s/clusters/c1 of the server: use type kubeconfig") {
		t.Errorf("message %q", message)
	}
	if w.minted.Load() != 0 || w.secret(w.request) != nil {
		t.Error("issued nevertheless")
	}
}

// whoAmI lists what the account may list, which is nothing, and returns whom the target takes it
// for.
func whoAmI(t testing.TB, cfg *rest.Config) string {
	t.Helper()
	err := testenv.NewClient(t, cfg).List(t.Context(), &corev1.ConfigMapList{}, client.InNamespace("kube-system"))
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
