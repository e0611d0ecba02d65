package testenv

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyferry/keyferry/internal/moduleroot"
)

// CertManager runs the real cert-manager: its CRDs, and a program with its controllers.
type CertManager struct {
	program, kubeconfig string
}

// NewCertManager installs cert-manager's CRDs, and builds e2e/cmd/certmanager into dir.
func NewCertManager(ctx context.Context, cfg *rest.Config, dir string) (*CertManager, error) {
	if err := InstallCertManager(cfg); err != nil {
		return nil, err
	}
	c := &CertManager{program: filepath.Join(dir, "certmanager"), kubeconfig: filepath.Join(dir, "kubeconfig")}
	build := exec.CommandContext(ctx, "go", "build", "-o", c.program, "./cmd/certmanager") // #nosec G204 -- for tests only
	build.Dir = filepath.Join(moduleroot.Dir(), "e2e")
	if _, err := output(build); err != nil {
		return nil, err
	}
	return c, clientcmd.WriteToFile(kubeconfig(cfg), c.kubeconfig)
}

// Start runs the program with flags. It is ready when its caches are filled. stop stops the program
// and waits for its end.
func (c *CertManager) Start(ctx context.Context, flags ...string) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	program := exec.CommandContext(ctx, c.program, append(flags, "-kubeconfig", c.kubeconfig)...) // #nosec G204 -- for tests only
	log := &strings.Builder{}
	program.Stdout, program.Stderr = log, log
	if err := program.Start(); err != nil {
		cancel()
		return nil, err
	}
	return func() error {
		cancel()
		if err := program.Wait(); err != nil && program.ProcessState.ExitCode() > 0 { // it has failed
			return fmt.Errorf("certmanager: %w\n%s", err, log)
		}
		return nil
	}, nil
}

func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
