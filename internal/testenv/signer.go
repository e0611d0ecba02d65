package testenv

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Signer starts another API server, without Keyferry's CRDs, until t ends. It also returns the key
// that signs its ServiceAccount tokens.
func Signer(t *testing.T) (*rest.Config, *ecdsa.PrivateKey) {
	t.Helper()
	env := &envtest.Environment{BinaryAssetsDirectory: Assets(), ControlPlaneStartTimeout: startTimeout}
	cfg, err := env.Start()
	if err != nil {
		t.Fatalf("starting another API server: %v", err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stopping the other API server: %v", err)
		}
	})
	key, err := readKey(filepath.Join(env.ControlPlane.GetAPIServer().CertDir, "sa-signer.key"))
	if err != nil {
		t.Fatalf("reading the key of its tokens: %v", err)
	}
	return cfg, key
}

func readKey(file string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(file) // #nosec G304 -- of envtest
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if key, ok := key.(*ecdsa.PrivateKey); ok {
		return key, nil
	}
	return nil, fmt.Errorf("it is a %T", key)
}
