package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

const (
	// FederationAudience is whom tokens of the management cluster must be for, if the target is to
	// accept them.
	FederationAudience = "keyferry-target"
	// FederationPrefix is what the target puts before the names of those whose tokens they are.
	FederationPrefix = "management:"
)

// authenticationConfig is the target's. It begins with no issuer, since the management cluster is
// created at the same time and nobody knows its authority yet; the API server reads the file again
// when it changes.
var authenticationConfig = template.Must(template.New("").Parse(`apiVersion: apiserver.config.k8s.io/v1beta1
kind: AuthenticationConfiguration
{{- with .}}
jwt:
- issuer:
    url: https://keyferry-management-control-plane:6443
    audiences: [` + FederationAudience + `]
    certificateAuthority: {{printf "%q" .}}
  claimMappings:
    username: {claim: sub, prefix: "` + FederationPrefix + `"}
{{- end}}
`))

// discovery lets the target read the keys that the management cluster signs tokens with.
const discovery = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: e2e-issuer-discovery}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:service-account-issuer-discovery}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: system:unauthenticated}]
`

// federate has the target accept tokens of the management cluster.
func (p *Pair) federate(ctx context.Context) error {
	cfg, err := p.Management.Config()
	if err != nil {
		return err
	}
	if err := p.Management.Apply(ctx, []byte(discovery)); err != nil {
		return fmt.Errorf("letting everybody read the issuer's keys: %w", err)
	}
	return writeAuthentication(string(cfg.CAData))
}

// writeAuthentication writes the target's configuration, without an issuer if there is no
// authority. It is swapped: the API server must not read half of it.
func writeAuthentication(authority string) error {
	var text bytes.Buffer
	if err := authenticationConfig.Execute(&text, authority); err != nil {
		return err
	}
	file := filepath.Join(filesDir(), "authentication.yaml")
	if err := os.WriteFile(file+".new", text.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
