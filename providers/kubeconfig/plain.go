package kubeconfig

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

var errFile = errors.New("names a file, and files of another machine are not read: embed the content (kubectl config view --raw --flatten)")

// parseKubeconfig reads the current context of a kubeconfig.
func parseKubeconfig(data []byte) (parsed, error) {
	if err := checkYAML(data); err != nil {
		return parsed{}, err
	}
	config, err := clientcmd.Load(data)
	if err != nil {
		return parsed{}, errNoYAML(err)
	}
	if config.CurrentContext == "" {
		return parsed{}, errors.New("has no current-context: set it (kubectl config use-context)")
	}
	context := config.Contexts[config.CurrentContext]
	if context == nil {
		return parsed{}, fmt.Errorf("has no context %q, which current-context names", config.CurrentContext)
	}
	cluster := config.Clusters[context.Cluster]
	if cluster == nil {
		return parsed{}, fmt.Errorf("has no cluster %q, which the context %q names", context.Cluster, config.CurrentContext)
	}
	user := config.AuthInfos[context.AuthInfo]
	if user == nil {
		return parsed{}, fmt.Errorf("has no user %q, which the context %q names", context.AuthInfo, config.CurrentContext)
	}
	if err := checkCluster(cluster); err != nil {
		return parsed{}, fmt.Errorf("cluster %q: %w", context.Cluster, err)
	}
	if err := checkUser(user); err != nil {
		return parsed{}, fmt.Errorf("user %q: %w", context.AuthInfo, err)
	}
	out := parsed{token: user.Token, certificate: user.ClientCertificateData, key: user.ClientKeyData}
	out.endpoint.Server = cluster.Server
	out.endpoint.CertificateAuthority = cluster.CertificateAuthorityData
	out.endpoint.TLSServerName = cluster.TLSServerName
	out.endpoint.ProxyURL = cluster.ProxyURL
	return out, nil
}

// checkYAML refuses aliases. clientcmd writes each of them out, so that a small Secret would take all memory.
func checkYAML(data []byte) error {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return errNoYAML(err)
	}
	if hasAlias(&document) {
		return errors.New("uses YAML aliases (such as *name): write out what they stand for")
	}
	return nil
}

func hasAlias(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || slices.ContainsFunc(n.Content, hasAlias)
}

func errNoYAML(err error) error {
	return errors.New("is no kubeconfig: it cannot be read as YAML" + atLine(err))
}

func checkCluster(c *api.Cluster) error {
	switch {
	case c.InsecureSkipTLSVerify:
		return errInsecure("insecure-skip-tls-verify", "certificate-authority-data")
	case c.CertificateAuthority != "":
		return fmt.Errorf("certificate-authority %w", errFile)
	}
	return nil
}

func checkUser(u *api.AuthInfo) error {
	switch {
	case u.Exec != nil:
		return errExec("exec", u.Exec.Command)
	case u.AuthProvider != nil:
		return errExec("auth-provider", u.AuthProvider.Name)
	case u.ClientCertificate != "":
		return fmt.Errorf("client-certificate %w", errFile)
	case u.ClientKey != "":
		return fmt.Errorf("client-key %w", errFile)
	case u.TokenFile != "":
		return fmt.Errorf("tokenFile %w", errFile)
	case u.Username != "" || u.Password != "":
		return errPassword("username and password")
	case u.Impersonate != "" || u.ImpersonateUID != "" || len(u.ImpersonateGroups) > 0 || len(u.ImpersonateUserExtra) > 0:
		return errors.New("as (impersonation) is not supported: give the user itself the rights that it needs")
	}
	return nil
}

func errInsecure(field, mend string) error {
	return fmt.Errorf("%s is not allowed, it would give the credential to anybody: set %s instead", field, mend)
}

func errPassword(fields string) error {
	return fmt.Errorf("%s are not supported by Kubernetes any more: use a token or a client certificate", fields)
}

// errExec refuses a command or plugin, and names the access type that does the same if it is a known one.
func errExec(field, command string) error {
	mend := "use the access type of that cloud, or a token or client certificate"
	access := map[string]string{
		"aws": "EKS", "aws-iam-authenticator": "EKS",
		"gke-gcloud-auth-plugin": "GKE", "gcloud": "GKE", "gcp": "GKE",
		"kubelogin": "AKS", "azure": "AKS",
		"ncp-iam-authenticator": "NCP",
	}[path.Base(command)]
	if access != "" {
		mend = "use the access type " + access + ", or a token or client certificate"
	}
	return fmt.Errorf("%s is not followed, nothing that a Secret names is run: %s", field, mend)
}

var line = regexp.MustCompile(`\bline \d+`)

// atLine returns where the parser stumbled. The rest of its message may quote the content.
func atLine(err error) string {
	if at := line.FindString(err.Error()); at != "" {
		return " (" + at + ")"
	}
	return ""
}
