// Package exec has credentials issued by a plugin that runs in this process's container, with its
// identity.
//
// A plugin is not given this process's environment: only what the operator's provider file says,
// and those variables by which the operator has given this process an identity, and a way out.
package exec

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/keyferry/keyferry/internal/credentialplugin"
	"github.com/keyferry/keyferry/providers"
)

const (
	// timeout is less than issuing may take, so that it is told what took so long.
	timeout = 12 * time.Second
	// minSecret is the length from which a variable's value may be a secret.
	minSecret = 8
)

// Config is what a Provider is made from. All but Environ, Cluster and Timeout comes from the
// operator's provider file, and from a ClusterProfile as far as that lets it.
type Config struct {
	// Name of the provider, for messages.
	Name string
	// Command is an absolute path, Args are the program's arguments.
	Command string
	Args    []string
	// Env are variables as NAME=value. They win over those of Environ.
	Env []string
	// APIVersion of the ExecCredential that the program reads and prints.
	APIVersion string
	// Cluster is what the program is told of the cluster; nil if nothing.
	Cluster *credentialplugin.Cluster

	// Environ is the environment of this process, as os.Environ returns it.
	Environ []string
	// Slots limits the plugins that run at the same time; nil is no limit. Namespace and Target are
	// those of the object that the plugin runs for.
	Slots             *Slots
	Namespace, Target string
	// Timeout is after how long the program is killed. Zero is 12 seconds.
	Timeout time.Duration
}

// Provider runs a plugin. Its credentials are the same for everybody: the plugin does not hear for
// whom they are.
type Provider struct {
	name    string
	plugin  credentialplugin.Plugin
	cluster *credentialplugin.Cluster
	do      func(ctx context.Context, plugin func(context.Context) error) error
}

// New returns a Provider, or an error that says what is wrong in the provider file.
func New(cfg Config) (*Provider, error) {
	switch {
	case !path.IsAbs(cfg.Command):
		return nil, fmt.Errorf("provider %s: execConfig.command must be an absolute path", cfg.Name)
	case cfg.APIVersion == "":
		return nil, fmt.Errorf("provider %s: execConfig.apiVersion is missing", cfg.Name)
	}
	return &Provider{
		name: cfg.Name,
		plugin: credentialplugin.Plugin{
			Command:    cfg.Command,
			Args:       slices.Clone(cfg.Args),
			Env:        environment(cfg.Environ, cfg.Env),
			Secrets:    secrets(cfg.Env),
			APIVersion: cfg.APIVersion,
			Timeout:    cmp.Or(cfg.Timeout, timeout),
		},
		cluster: cfg.Cluster,
		do:      cfg.do,
	}, nil
}

// do runs a plugin once it has a slot.
func (cfg Config) do(ctx context.Context, plugin func(context.Context) error) error {
	if cfg.Slots == nil {
		return plugin(ctx)
	}
	return cfg.Slots.Do(ctx, cfg.Namespace, cfg.Target, plugin)
}

// ShareKey is empty: everybody is given the same credential.
func (p *Provider) ShareKey(providers.Request) string { return "" }

// Issue runs the plugin.
func (p *Provider) Issue(ctx context.Context, _ providers.Request) (providers.Credential, error) {
	var credential providers.Credential
	err := p.do(ctx, func(ctx context.Context) (err error) {
		credential, err = p.plugin.Run(ctx, p.cluster)
		return err
	})
	if err != nil {
		return providers.Credential{}, fmt.Errorf("provider %s: %w", p.name, err)
	}
	return credential, nil
}

// secrets are the values that may be some.
func secrets(env []string) []string {
	var values []string
	for _, variable := range env {
		if _, value, _ := strings.Cut(variable, "="); len(value) >= minSecret {
			values = append(values, value)
		}
	}
	return values
}

// environment returns what a plugin sees: of this process's environment what inherited says, then
// the operator's own.
func environment(environ, own []string) []string {
	env := []string{}
	for _, variable := range environ {
		if name, _, ok := strings.Cut(variable, "="); ok && inherited(name) {
			env = append(env, variable)
		}
	}
	return append(env, own...)
}

// inherited reports whether a plugin gets a variable of this process: those by which clouds and
// Kubernetes tell a Pod who it is, and the way that its connections take. There is no PATH and no
// HOME: what a plugin needs of the kind is in its own env.
func inherited(name string) bool {
	return slices.Contains([]string{
		"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_PORT_HTTPS",
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_STS_REGIONAL_ENDPOINTS",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
		"AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST",
		"GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT",
		"SSL_CERT_FILE", "SSL_CERT_DIR",
	}, name) || slices.Contains([]string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}, strings.ToUpper(name))
}
