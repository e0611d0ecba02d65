package testenv

import (
	"os/exec"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kubectl returns kubectl with args, to be run in the folder dir as the one whom cfg is of. t removes what it needs.
func Kubectl(t *testing.T, cfg *rest.Config, dir string, args ...string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(kubeconfig(cfg), file); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(Assets(), "kubectl"), args...) // #nosec G204 -- for tests only
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "KUBECONFIG="+file)
	return cmd
}

func kubeconfig(cfg *rest.Config) clientcmdapi.Config {
	c := clientcmdapi.NewConfig()
	c.CurrentContext = "a"
	c.Contexts["a"] = &clientcmdapi.Context{Cluster: "a", AuthInfo: "a"}
	c.Clusters["a"] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData}
	c.AuthInfos["a"] = &clientcmdapi.AuthInfo{ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData, Token: cfg.BearerToken}
	return *c
}
