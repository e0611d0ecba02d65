package kubeconfig

import (
	"errors"
	"fmt"

	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyferry/keyferry/endpoint"
)

var errFile = errors.New("is the path of a file, which Keyferry does not read: embed the content (kubectl config view --raw --flatten)")

// parseKubeconfig reads one context of a kubeconfig; empty is the current one. replaced is that of
// Config.
func parseKubeconfig(data []byte, name string, replaced endpoint.Endpoint) (parsed, error) {
	config, err := decode(data)
	if err != nil {
		return parsed{}, err
	}
	if name == "" {
		if name = config.CurrentContext; name == "" {
			return parsed{}, errors.New("has no current-context: set it (kubectl config use-context)")
		}
	}
	context := config.Contexts[name]
	if context == nil {
		return parsed{}, fmt.Errorf("%w %q", ErrNoContext, name)
	}
	cluster := config.Clusters[context.Cluster]
	if cluster == nil {
		return parsed{}, fmt.Errorf("does not contain the cluster %q of the context %q", context.Cluster, name)
	}
	user := config.AuthInfos[context.AuthInfo]
	if user == nil {
		return parsed{}, fmt.Errorf("does not contain the user %q of the context %q", context.AuthInfo, name)
	}
	if !replaced.Has(endpoint.FieldCertificateAuthority) {
		if err := checkCluster(cluster); err != nil {
			return parsed{}, fmt.Errorf("cluster %q: %w", context.Cluster, err)
		}
	}
	out := parsed{token: user.Token, certificate: user.ClientCertificateData, key: user.ClientKeyData}
	out.endpoint.Server = cluster.Server
	out.endpoint.CertificateAuthority = cluster.CertificateAuthorityData
	out.endpoint.TLSServerName = cluster.TLSServerName
	out.endpoint.ProxyURL = cluster.ProxyURL
	err = checkUser(user)
	if program, ok := errors.AsType[*ExecError](err); ok {
		program.Endpoint = out.endpoint
	}
	if err != nil {
		return parsed{}, fmt.Errorf("user %q: %w", context.AuthInfo, err)
	}
	return out, nil
}

// checkCluster lets a file pass beside its data: the data counts, as in client-go.
func checkCluster(c *api.Cluster) error {
	switch {
	case c.InsecureSkipTLSVerify:
		return errInsecure("insecure-skip-tls-verify", "certificate-authority-data")
	case c.CertificateAuthority != "" && len(c.CertificateAuthorityData) == 0:
		return fmt.Errorf("certificate-authority %w", errFile)
	}
	return nil
}

func checkUser(u *api.AuthInfo) error {
	switch {
	case u.Exec != nil:
		return newExecError("exec", u.Exec.Command, u.Exec.Args...)
	case u.AuthProvider != nil:
		return newExecError("auth-provider", u.AuthProvider.Name)
	case u.ClientCertificate != "" && len(u.ClientCertificateData) == 0:
		return fmt.Errorf("client-certificate %w", errFile)
	case u.ClientKey != "" && len(u.ClientKeyData) == 0:
		return fmt.Errorf("client-key %w", errFile)
	case u.TokenFile != "":
		return fmt.Errorf("tokenFile %w", errFile)
	case u.Username != "" || u.Password != "":
		return errPassword("username and password")
	case u.Impersonate != "" || u.ImpersonateUID != "" || len(u.ImpersonateGroups) > 0 || len(u.ImpersonateUserExtra) > 0:
		return errors.New("as (impersonation) is not supported: give the necessary permissions to the user itself")
	}
	return nil
}

func errInsecure(field, fix string) error {
	return fmt.Errorf("%s is not allowed, because any server could receive the credential: set %s instead", field, fix)
}

func errPassword(fields string) error {
	return fmt.Errorf("%s are not supported by Kubernetes any more: use a token or a client certificate", fields)
}
