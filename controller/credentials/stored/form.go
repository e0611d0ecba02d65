package stored

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/issuer"
)

// Label by which Argo CD knows its clusters
// (https://argo-cd.readthedocs.io/en/stable/operator-manual/declarative-setup/#clusters).
const (
	labelArgoCD      = "argocd.argoproj.io/secret-type"
	labelArgoCDValue = "cluster"
)

const defaultKubeconfigKey = "kubeconfig"

// argoCDConfigKey is the key of Argo CD's Secret that holds the credential.
const argoCDConfigKey = "config"

// Obstacle says what a Secret of this type cannot express of an endpoint and a credential; empty if
// there is nothing.
func Obstacle(form v1alpha1.CredentialType, at endpoint.Endpoint, certificate bool) string {
	if form != v1alpha1.CredentialTokenFile {
		return ""
	}
	return endpoint.Obstacle(at, certificate)
}

// Form returns the data of a Secret that holds the credential in the form that the request asks
// for.
func Form(request *v1alpha1.CredentialRequest, issued issuer.Issued) (map[string][]byte, error) {
	switch request.Spec.Type {
	case v1alpha1.CredentialTokenFile:
		return tokenFile(issued)
	case v1alpha1.CredentialArgoCD:
		return argoCD(request.Name, issued)
	case v1alpha1.CredentialKubeconfig:
		return kubeconfig(request, issued)
	}
	return nil, fmt.Errorf("spec.type %s is not supported by this version", request.Spec.Type)
}

func kubeconfig(request *v1alpha1.CredentialRequest, issued issuer.Issued) (map[string][]byte, error) {
	name := request.Spec.TargetCluster.Name
	text, err := clientcmd.Write(clientcmdapi.Config{
		CurrentContext: name,
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name, Namespace: issued.Namespace}},
		Clusters: map[string]*clientcmdapi.Cluster{name: {
			Server:                   issued.Endpoint.Server,
			CertificateAuthorityData: issued.Endpoint.CertificateAuthority,
			TLSServerName:            issued.Endpoint.TLSServerName,
			ProxyURL:                 issued.Endpoint.ProxyURL,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{name: {
			Token:                 issued.Token,
			ClientCertificateData: issued.ClientCertificate,
			ClientKeyData:         issued.ClientKey,
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("writing a kubeconfig: %w", err)
	}
	key := request.Spec.Secret.Key
	if key == "" {
		key = defaultKubeconfigKey
	}
	return map[string][]byte{key: text}, nil
}

// tokenFile is for clients that take host and port from their environment: an IPv6 address has no
// brackets there.
func tokenFile(issued issuer.Issued) (map[string][]byte, error) {
	server, err := url.Parse(issued.Endpoint.Server)
	if err != nil {
		return nil, fmt.Errorf("reading the server's address: %w", err)
	}
	return map[string][]byte{
		injector.TokenFileToken:                []byte(issued.Token),
		injector.TokenFileHost:                 []byte(server.Hostname()),
		injector.TokenFilePort:                 []byte(server.Port()),
		injector.TokenFileCertificateAuthority: issued.Endpoint.CertificateAuthority,
	}, nil
}

// argoCDConfig is the value of the key config, as far as it is needed here.
type argoCDConfig struct {
	BearerToken     string          `json:"bearerToken,omitempty"`
	TLSClientConfig argoCDTLSConfig `json:"tlsClientConfig"`
	ProxyURL        string          `json:"proxyUrl,omitempty"`
}

type argoCDTLSConfig struct {
	Insecure   bool   `json:"insecure"`
	ServerName string `json:"serverName,omitempty"`
	CAData     []byte `json:"caData,omitempty"`
	CertData   []byte `json:"certData,omitempty"`
	KeyData    []byte `json:"keyData,omitempty"`
}

func argoCD(name string, issued issuer.Issued) (map[string][]byte, error) {
	config, err := json.Marshal(argoCDConfig{ //nolint:gosec // it goes to where credentials are kept
		BearerToken: issued.Token,
		TLSClientConfig: argoCDTLSConfig{
			ServerName: issued.Endpoint.TLSServerName,
			CAData:     issued.Endpoint.CertificateAuthority,
			CertData:   issued.ClientCertificate,
			KeyData:    issued.ClientKey,
		},
		ProxyURL: issued.Endpoint.ProxyURL,
	})
	if err != nil {
		return nil, fmt.Errorf("writing Argo CD's config: %w", err)
	}
	// Applications and AppProjects name a cluster by the text of its server.
	server := cmp.Or(issued.Endpoint.Spelling, issued.Endpoint.Server)
	return map[string][]byte{"name": []byte(name), "server": []byte(server), argoCDConfigKey: config}, nil
}

// Withheld returns the data of Argo CD's Secret without the credential, or nil for another Secret.
// If the Secret were deleted, ApplicationSets would delete the Applications of the cluster.
func Withheld(secret *corev1.Secret) map[string][]byte {
	if secret.Labels[labelArgoCD] != labelArgoCDValue {
		return nil
	}
	var config argoCDConfig
	if json.Unmarshal(secret.Data[argoCDConfigKey], &config) != nil {
		config = argoCDConfig{}
	}
	config.BearerToken, config.TLSClientConfig.CertData, config.TLSClientConfig.KeyData = "", nil, nil
	text, err := json.Marshal(config) //nolint:gosec // the fields of the credential are empty
	if err != nil {
		return nil // the types of its fields can be marshalled
	}
	return with(maps.Clone(secret.Data), argoCDConfigKey, text)
}
