package kubeconfig

import (
	"encoding/json"
	"errors"
	"fmt"
)

// An Argo CD cluster Secret, see https://argo-cd.readthedocs.io/en/stable/operator-manual/declarative-setup/#clusters.
const (
	argoLabel   = "argocd.argoproj.io/secret-type"
	argoCluster = "cluster"
)

type argoConfig struct {
	Username           string          `json:"username"`
	Password           string          `json:"password"`
	BearerToken        string          `json:"bearerToken"`
	ProxyURL           string          `json:"proxyUrl"`
	AWSAuthConfig      json.RawMessage `json:"awsAuthConfig"`
	ExecProviderConfig *struct {
		Command string `json:"command"`
	} `json:"execProviderConfig"`
	TLSClientConfig struct {
		Insecure   bool   `json:"insecure"`
		ServerName string `json:"serverName"`
		CAData     []byte `json:"caData"`
		CertData   []byte `json:"certData"`
		KeyData    []byte `json:"keyData"`
	} `json:"tlsClientConfig"`
}

// parseArgo reads an Argo CD cluster Secret.
func parseArgo(data map[string][]byte) (parsed, error) {
	for _, key := range []string{"server", "config"} {
		if len(data[key]) == 0 {
			return parsed{}, fmt.Errorf("is labelled as an Argo CD cluster, but has no key %s", key)
		}
	}
	var config argoConfig
	if json.Unmarshal(data["config"], &config) != nil {
		return parsed{}, errors.New("key config: is not the JSON of an Argo CD cluster")
	}
	if err := checkArgo(config); err != nil {
		return parsed{}, fmt.Errorf("key config: %w", err)
	}
	out := parsed{token: config.BearerToken, certificate: config.TLSClientConfig.CertData, key: config.TLSClientConfig.KeyData}
	out.endpoint.Server = string(data["server"])
	out.endpoint.CertificateAuthority = config.TLSClientConfig.CAData
	out.endpoint.TLSServerName = config.TLSClientConfig.ServerName
	out.endpoint.ProxyURL = config.ProxyURL
	return out, nil
}

func checkArgo(config argoConfig) error {
	switch {
	case config.TLSClientConfig.Insecure:
		return errInsecure("tlsClientConfig.insecure", "tlsClientConfig.caData")
	case len(config.AWSAuthConfig) > 0 && string(config.AWSAuthConfig) != "null":
		return newExecError("awsAuthConfig", "aws")
	case config.ExecProviderConfig != nil:
		return newExecError("execProviderConfig", config.ExecProviderConfig.Command)
	case config.Username != "" || config.Password != "":
		return errPassword("username and password")
	}
	return nil
}
