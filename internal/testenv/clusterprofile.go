package testenv

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// InstallClusterProfiles installs the CustomResourceDefinition of ClusterProfiles, from the module that their types are of.
func InstallClusterProfiles(cfg *rest.Config) error {
	const module = "sigs.k8s.io/cluster-inventory-api"
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output() //nolint:noctx // nobody waits for less
	if err != nil {
		return fmt.Errorf("looking for module %s: %w", module, err)
	}
	file := filepath.Join(strings.TrimSpace(string(dir)), "config/crd/bases/multicluster.x-k8s.io_clusterprofiles.yaml")
	_, err = envtest.InstallCRDs(cfg, envtest.CRDInstallOptions{Paths: []string{file}, ErrorIfPathMissing: true})
	return err
}
