package kubeconfig

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keyferry/keyferry/endpoint"
)

// An Argo CD cluster Secret, see
// https://argo-cd.readthedocs.io/en/stable/operator-manual/declarative-setup/#clusters.
const (
	argoLabel   = "argocd.argoproj.io/secret-type"
	argoCluster = "cluster"
)

type argoConfig struct {
	Username           string         `json:"username"`
	Password           string         `json:"password"`
	BearerToken        string         `json:"bearerToken"`
	ProxyURL           string         `json:"proxyUrl"`
	AWSAuthConfig      map[string]any `json:"awsAuthConfig"`
	ExecProviderConfig *struct {
		Command string   `json:"command"`
		Args    []string `json:"args"`
	} `json:"execProviderConfig"`
	TLSClientConfig struct {
		Insecure   bool   `json:"insecure"`
		ServerName string `json:"serverName"`
		// The others are base64, which parseArgo decodes: the decoder of JSON does not name the field.
		CAData   string `json:"caData"`
		CertData string `json:"certData"`
		KeyData  string `json:"keyData"`
	} `json:"tlsClientConfig"`
}

// parseArgo reads an Argo CD cluster Secret. replaced is that of Config.
func parseArgo(data map[string][]byte, replaced endpoint.Endpoint) (parsed, error) {
	for _, key := range []string{"server", "config"} {
		if len(data[key]) == 0 && (key != "server" || !replaced.Has(endpoint.FieldServer)) {
			return parsed{}, fmt.Errorf("has the label of an Argo CD cluster, but has no key %s", key)
		}
	}
	var config argoConfig
	if err := json.Unmarshal(data["config"], &config); err != nil {
		return parsed{}, fmt.Errorf("key config: %w", jsonError(err))
	}
	if replaced.Has(endpoint.FieldCertificateAuthority) {
		config.TLSClientConfig.Insecure = false
	}
	if err := checkArgo(config); err != nil {
		return parsed{}, fmt.Errorf("key config: %w", err)
	}
	out := parsed{token: config.BearerToken}
	out.endpoint.Server = string(data["server"])
	out.endpoint.TLSServerName = config.TLSClientConfig.ServerName
	out.endpoint.ProxyURL = config.ProxyURL
	for _, field := range []struct {
		name, value string
		into        *[]byte
	}{
		{"caData", config.TLSClientConfig.CAData, &out.endpoint.CertificateAuthority},
		{"certData", config.TLSClientConfig.CertData, &out.certificate},
		{"keyData", config.TLSClientConfig.KeyData, &out.key},
	} {
		if err := checkBase64(field.value); err != nil {
			return parsed{}, fmt.Errorf("key config: tlsClientConfig.%s %w", field.name, err)
		}
		*field.into, _ = base64.StdEncoding.DecodeString(field.value)
	}
	return out, nil
}

// jsonError names the field or the byte that cannot be read, and repeats no value.
func jsonError(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
		return typeError(wrong)
	}
	if wrong, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("is not JSON, from byte %d on", wrong.Offset)
	}
	return errors.New("is not the JSON of an Argo CD cluster")
}

func checkArgo(config argoConfig) error {
	switch {
	case config.TLSClientConfig.Insecure:
		return errInsecure("tlsClientConfig.insecure", "tlsClientConfig.caData")
	case len(config.AWSAuthConfig) > 0:
		return newExecError("awsAuthConfig", "aws")
	case config.ExecProviderConfig != nil:
		return newExecError("execProviderConfig", config.ExecProviderConfig.Command, config.ExecProviderConfig.Args...)
	case config.Username != "" || config.Password != "":
		return errPassword("username and password")
	}
	return nil
}
