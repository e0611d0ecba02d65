package testenv

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// InstallClusterProfiles installs the CustomResourceDefinition of ClusterProfiles, from the module
// with their types.
func InstallClusterProfiles(cfg *rest.Config) error {
	return install(cfg, "sigs.k8s.io/cluster-inventory-api", "config/crd/bases/multicluster.x-k8s.io_clusterprofiles.yaml")
}

// InstallCertManager installs the CustomResourceDefinitions of cert-manager, from the module with
// their types.
func InstallCertManager(cfg *rest.Config) error {
	return install(cfg, "github.com/cert-manager/cert-manager", "deploy/crds")
}

func install(cfg *rest.Config, module, path string) error {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output() //nolint:noctx,gosec // nobody waits for less, and it is for tests only
	if err != nil {
		return fmt.Errorf("looking for module %s: %w", module, err)
	}
	path = filepath.Join(strings.TrimSpace(string(dir)), path)
	if _, err := envtest.InstallCRDs(cfg, envtest.CRDInstallOptions{Paths: []string{path}, ErrorIfPathMissing: true}); err != nil {
		return fmt.Errorf("installing the CRDs of %s: %w", module, err)
	}
	return nil
}
