package stored

import (
	"maps"
	"slices"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/providers"
)

// TestArgoCDConfig: the fields that Argo CD documents, for all that an endpoint and a credential
// can have.
func TestArgoCDConfig(t *testing.T) {
	data, err := argoCD("tenant-1", issuer.Issued{Credential: providers.Credential{
		ClientCertificate: []byte("certificate"), ClientKey: []byte("key"),
		Endpoint: endpoint.Endpoint{
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
		Endpoint: endpoint.Endpoint{Server: "https://203.0.113.7:6443/a", CertificateAuthority: []byte("authority"), TLSServerName: "kubernetes", ProxyURL: "http://proxy:3128"},
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
