// Package credential is the command keyferry credential: it issues one credential, for people and
// for programs that run credential plugins.
package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientauthentication "k8s.io/client-go/pkg/apis/clientauthentication/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/refresher"
)

// Credential is one that was issued, with all that a client needs to use it.
type Credential struct {
	providers.Credential
	// Target names the TargetCluster.
	Target types.NamespacedName
	// Namespace is that which clients use where they name none.
	Namespace string
}

// FromBroker asks the broker as a refresher does.
func FromBroker(ctx context.Context, config refresher.Config, target types.NamespacedName) (Credential, error) {
	config.Target = target.String()
	answer, err := refresher.Ask(ctx, config)
	if err != nil {
		return Credential{}, err
	}
	cluster, status := answer.Spec.Cluster, answer.Status
	server, err := endpoint.Parse(cluster.Server)
	if err != nil {
		return Credential{}, fmt.Errorf("the broker's answer is not valid: its server %w", err)
	}
	return Credential{
		Credential: providers.Credential{
			Token:             status.Token,
			ClientCertificate: []byte(status.ClientCertificateData),
			ClientKey:         []byte(status.ClientKeyData),
			NotAfter:          status.ExpirationTimestamp,
			Endpoint: endpoint.Endpoint{
				Server:               server.String(),
				CertificateAuthority: cluster.CertificateAuthorityData,
				TLSServerName:        cluster.TLSServerName,
				ProxyURL:             cluster.ProxyURL,
			},
		},
		Target:    target,
		Namespace: cluster.Config.Namespace,
	}, nil
}

// The forms that a credential is printed in.
const (
	formJSON       = "json"
	formYAML       = "yaml"
	formToken      = "token"
	formKubeconfig = "kubeconfig"
)

// write prints the credential in a form; apiVersion is that of the ExecCredential.
func (c Credential) write(out io.Writer, form, apiVersion string) error {
	var text []byte
	var err error
	switch form {
	case formToken:
		if c.Token == "" {
			return fmt.Errorf("TargetCluster %s issues a client certificate, not a token: use --output json or kubeconfig", c.Target)
		}
		text = []byte(c.Token + "\n")
	case formKubeconfig:
		text, err = c.kubeconfig()
	case formYAML:
		if text, err = c.execCredential(apiVersion); err == nil {
			text, err = yaml.JSONToYAML(text)
		}
	default:
		text, err = c.execCredential(apiVersion)
	}
	if err != nil {
		return err
	}
	if _, err := out.Write(text); err != nil {
		return fmt.Errorf("writing the credential: %w", err)
	}
	return nil
}

// execCredential is the answer of a credential plugin. The version v1beta1 has the same fields.
func (c Credential) execCredential(apiVersion string) ([]byte, error) {
	text, err := json.MarshalIndent(clientauthentication.ExecCredential{
		TypeMeta: metav1.TypeMeta{APIVersion: apiVersion, Kind: "ExecCredential"},
		Status: &clientauthentication.ExecCredentialStatus{
			ExpirationTimestamp:   &metav1.Time{Time: c.NotAfter.UTC()},
			Token:                 c.Token,
			ClientCertificateData: string(c.ClientCertificate),
			ClientKeyData:         string(c.ClientKey),
		},
	}, "", "  ")
	if err != nil {
		return nil, errors.New("the credential cannot be written as JSON")
	}
	return append(text, '\n'), nil
}

// kubeconfig is a whole one, which needs no other file and no plugin.
func (c Credential) kubeconfig() ([]byte, error) {
	name := c.Target.Name
	text, err := clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{name: {
			Server:                   c.Endpoint.Server,
			CertificateAuthorityData: c.Endpoint.CertificateAuthority,
			TLSServerName:            c.Endpoint.TLSServerName,
			ProxyURL:                 c.Endpoint.ProxyURL,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{name: {
			Token:                 c.Token,
			ClientCertificateData: c.ClientCertificate,
			ClientKeyData:         c.ClientKey,
		}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name, Namespace: c.Namespace}},
		CurrentContext: name,
	})
	if err != nil {
		return nil, errors.New("the credential cannot be written as a kubeconfig")
	}
	return append([]byte("# TargetCluster "+c.Target.String()+"; the credential ends at "+c.NotAfter.UTC().Format(time.RFC3339)+"\n"), text...), nil
}
