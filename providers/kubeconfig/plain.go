package kubeconfig

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

var errFile = errors.New("names a file, and files of another machine are not read: embed the content (kubectl config view --raw --flatten)")

// parseKubeconfig reads one context of a kubeconfig; empty is the current one.
func parseKubeconfig(data []byte, name string) (parsed, error) {
	if err := checkYAML(data); err != nil {
		return parsed{}, err
	}
	config, err := clientcmd.Load(data)
	if err != nil {
		return parsed{}, errNoYAML(err)
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
		return parsed{}, fmt.Errorf("has no cluster %q, which the context %q names", context.Cluster, name)
	}
	user := config.AuthInfos[context.AuthInfo]
	if user == nil {
		return parsed{}, fmt.Errorf("has no user %q, which the context %q names", context.AuthInfo, name)
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

// checkYAML refuses aliases: clientcmd expands each of them, so a small Secret would take all
// memory. It refuses other encodings than UTF-8, which the two YAML parsers here could read
// differently.
func checkYAML(data []byte) error {
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return errors.New("is not UTF-8 text: save it as UTF-8")
	}
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
		return newExecError("exec", u.Exec.Command, u.Exec.Args...)
	case u.AuthProvider != nil:
		return newExecError("auth-provider", u.AuthProvider.Name)
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

// ExecError refuses a kubeconfig whose credential comes from a program.
type ExecError struct {
	// Field is the kubeconfig's field that names the program.
	Field string
	// Program is the name of the program, without its directory. Error does not repeat it: it may come
	// from a Secret.
	Program string
	// AccessType is the type of spec.access that gets the same credential without a program; empty if
	// none is known.
	AccessType string
}

func (e *ExecError) Error() string {
	fix := "use the access type of that cloud, or a token or client certificate"
	if e.AccessType != "" {
		fix = "use the access type " + e.AccessType + ", or a token or client certificate"
	}
	return fmt.Sprintf("%s is not followed, no program that a kubeconfig names is run: %s", e.Field, fix)
}

func newExecError(field, command string, args ...string) *ExecError {
	program := path.Base(strings.ReplaceAll(command, `\`, "/"))
	return &ExecError{Field: field, Program: program, AccessType: accessType(strings.TrimSuffix(program, ".exe"), args)}
}

// accessType returns the access type that gets the credential which a program prints.
func accessType(program string, args []string) string {
	switch program {
	case "aws", "aws-iam-authenticator":
		return "EKS"
	case "gke-gcloud-auth-plugin", "gcloud", "gcp":
		return "GKE"
	case "kubelogin", "azure":
		return "AKS"
	case "ncp-iam-authenticator":
		return "NCP"
	}
	// The kubeconfigs of CB-Spider and CB-Tumblebug ask their token API, by curl or by a shell that
	// calls it.
	switch all := strings.Join(args, " "); {
	case strings.Contains(all, "/tumblebug/ns/"):
		return "Tumblebug"
	case strings.Contains(all, "/spider/cluster/"):
		return "Spider"
	}
	return ""
}

var line = regexp.MustCompile(`\bline \d+`)

// atLine returns where the parser stumbled. The rest of its message may quote the content.
func atLine(err error) string {
	if at := line.FindString(err.Error()); at != "" {
		return " (" + at + ")"
	}
	return ""
}
