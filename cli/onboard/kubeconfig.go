package onboard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/kubeconfig"
)

// maxKubeconfig is what a Secret can hold, in bytes.
const maxKubeconfig = 1 << 20

// Administrator is how you authenticate to the target.
type Administrator struct {
	// File is the kubeconfig.
	File     string
	Endpoint endpoint.Endpoint
	Config   *rest.Config
}

// ReadKubeconfig reads a context of the first of the files that has it; an empty context is the
// current one of the first file. It refuses what Keyferry refuses in kubeconfig Secrets: it reads
// no other file and runs no program.
func ReadKubeconfig(ctx context.Context, files []string, contextName string) (Administrator, error) {
	for _, file := range files {
		data, err := readLimited(file)
		if errors.Is(err, os.ErrNotExist) && len(files) > 1 {
			continue // kubectl skips them, too
		}
		if err != nil {
			return Administrator{}, fmt.Errorf("reading kubeconfig %s: %w", file, err)
		}
		provider, err := kubeconfig.NewFromFile(data, contextName)
		if errors.Is(err, kubeconfig.ErrNoContext) && len(files) > 1 {
			continue
		}
		if err != nil {
			return Administrator{}, fmt.Errorf("kubeconfig %s: %w", file, explain(err))
		}
		admin, err := newAdministrator(ctx, provider)
		if err != nil {
			return Administrator{}, fmt.Errorf("kubeconfig %s: %w", file, err)
		}
		admin.File = file
		return admin, nil
	}
	return Administrator{}, fmt.Errorf("there is no context %q in %s: kubectl config get-contexts lists them", contextName, strings.Join(files, ", "))
}

// Contexts returns the names of the contexts of a kubeconfig, sorted.
func Contexts(file string) ([]string, error) {
	data, err := readLimited(file)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %s: %w", file, err)
	}
	names, err := kubeconfig.Contexts(data)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", file, err)
	}
	return names, nil
}

func readLimited(name string) ([]byte, error) {
	file, err := os.Open(name) // #nosec G304 -- that is what the user asks for
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxKubeconfig+1))
	if err == nil && len(data) > maxKubeconfig {
		err = errors.New("the file is larger than 1 MiB: use a smaller file (kubectl config view --raw --flatten --minify)")
	}
	return data, err
}

// explain names the program that a kubeconfig wants to have run.
func explain(err error) error {
	refused, ok := errors.AsType[*kubeconfig.ExecError](err)
	if !ok {
		return err
	}
	if refused.Known == "" {
		return fmt.Errorf("%w (the program is %q, which Keyferry does not know)", err, refused.Program)
	}
	return fmt.Errorf("%w (the program is %q)", err, refused.Program)
}

func newAdministrator(ctx context.Context, provider *kubeconfig.Provider) (Administrator, error) {
	credential, err := provider.Issue(ctx, providers.Request{})
	if err != nil {
		return Administrator{}, err
	}
	e := provider.Endpoint()
	cfg := &rest.Config{
		Host:        e.Server,
		BearerToken: credential.Token,
		TLSClientConfig: rest.TLSClientConfig{
			CAData: e.CertificateAuthority, ServerName: e.TLSServerName, CertData: credential.ClientCertificate, KeyData: credential.ClientKey,
		},
		WarningHandler: rest.NoWarnings{},
	}
	if e.ProxyURL != "" {
		proxy, err := url.Parse(e.ProxyURL)
		if err != nil {
			return Administrator{}, errors.New("proxy-url is no URL")
		}
		cfg.Proxy = http.ProxyURL(proxy)
	}
	return Administrator{Endpoint: e, Config: cfg}, nil
}
