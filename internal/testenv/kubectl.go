package testenv

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyferry/keyferry/internal/moduleroot"
)

// Kubectl returns a command that runs kubectl with args in the directory dir, as the user of cfg.
// Its files are removed when t ends.
func Kubectl(t *testing.T, cfg *rest.Config, dir string, args ...string) *exec.Cmd {
	t.Helper()
	return command(t, cfg, dir, filepath.Join(Assets(), "kubectl"), args...)
}

// Helm is like Kubectl for helm, in the version that the repository pins.
func Helm(t *testing.T, cfg *rest.Config, dir string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := exec.CommandContext(t.Context(), filepath.Join(moduleroot.Dir(), "tools", "run"), "--build", "helm").Output() // #nosec G204 -- for tests only
	if err != nil {
		t.Fatalf("building helm: %v", err)
	}
	return command(t, cfg, dir, strings.TrimSpace(string(program)), args...)
}

func command(t *testing.T, cfg *rest.Config, dir, program string, args ...string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(kubeconfig(cfg), file); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...) // #nosec G204 -- for tests only
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "KUBECONFIG="+file)
	return cmd
}

// DependOn makes go test re-run a cached test if a file in the directories has changed. It is
// needed if only programs that the test runs read these files.
func DependOn(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			file, err := os.Open(path) // #nosec G304 G122 -- for tests only
			if err != nil {
				return err
			}
			return file.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func kubeconfig(cfg *rest.Config) clientcmdapi.Config {
	c := clientcmdapi.NewConfig()
	c.CurrentContext = "a"
	c.Contexts["a"] = &clientcmdapi.Context{Cluster: "a", AuthInfo: "a"}
	c.Clusters["a"] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData}
	c.AuthInfos["a"] = &clientcmdapi.AuthInfo{ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData, Token: cfg.BearerToken}
	return *c
}
