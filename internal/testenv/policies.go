package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/internal/moduleroot"
)

// InstallPolicy creates the admission policies, and their bindings, in a file of config/default. An
// API server enforces them some moments later.
func InstallPolicy(ctx context.Context, cfg *rest.Config, file string) error {
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(moduleroot.Dir(), "config", "default", file)) // #nosec G304 -- for tests only
	if err != nil {
		return err
	}
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
		if err := client.IgnoreAlreadyExists(c.Create(ctx, object)); err != nil {
			return fmt.Errorf("creating %s of %s: %w", object.GetName(), file, err)
		}
	}
}

// As returns a configuration with which requests are those of a component's ServiceAccount. RBAC
// allows them everything, so only admission can deny them.
func As(cfg *rest.Config, component string) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:keyferry-system:keyferry-" + component,
		Groups:   []string{"system:masters"},
	}
	return cfg
}
