package clusterprofile

import (
	"fmt"
	"slices"
	"strings"
)

// execInfo is the variable with the ExecCredential for the plugin.
const execInfo = "KUBERNETES_EXEC_INFO"

// isEnvName reports whether a name is a valid variable name for all shells and libraries.
func isEnvName(name string) bool {
	return name != "" && len(name) <= maxName && (name[0] < '0' || name[0] > '9') &&
		strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// checkProfileSets returns an error if a ClusterProfile may not set a variable. It may set the
// variables that the operator has listed for the provider. Without a list, it may set all but
// reserved and cloud variables.
func (p provider) checkProfileSets(name string) error {
	switch {
	case !isEnvName(name):
		return fmt.Errorf("sets the variable %.64q, whose name is not valid", name)
	case isReserved(name):
		return fmt.Errorf("sets the variable %s, which changes how a program runs: remove the variable from the ClusterProfile", name)
	case p.envNames == nil && isOfCloud(name), p.envNames != nil && !slices.Contains(p.envNames, name):
		return fmt.Errorf("sets the variable %s, which the provider file does not allow: remove the variable from the ClusterProfile, or add it to profileSourcedEnvVarNames of provider %s", name, p.plugin.Name)
	}
	return nil
}

// isReserved reports whether a variable affects how a program runs: the code that it loads, the
// paths of other programs and of its configuration, the CAs that it trusts, and its proxies.
// Setting such a variable would give access to the program's identity, so a ClusterProfile may
// never set one.
func isReserved(name string) bool {
	name = strings.ToUpper(name) // some, such as http_proxy, are read in both cases
	return strings.HasSuffix(name, "_PROXY") || slices.Contains([]string{
		"PATH", "SHELL", "IFS", "ENV", "CDPATH", "PS4", "PROMPT_COMMAND", // shells
		"HOME", "PWD", "OLDPWD", "TMP", "TEMP", "TMPDIR", "USER", "LOGNAME", "EDITOR", "VISUAL", "PAGER", "NETRC", // search paths of programs
		"LOCPATH", "NLSPATH", "HOSTALIASES", "LOCALDOMAIN", // the C library
		"GODEBUG", "GOTRACEBACK", "GOCOVERDIR", "GORACE", "CLASSPATH", // languages
		"REQUESTS_CA_BUNDLE",
	}, name) || hasPrefix(name,
		"LD_", "DYLD_", "GLIBC_", "MALLOC_", "GCONV_", "RES_", "RESOLV_", "BASH", // loaders, libraries, shells
		"PYTHON", "PERL", "RUBY", "GEM_", "BUNDLE_", "NODE_", "NPM_", "JAVA", "_JAVA", "JDK_", "DOTNET_", "COMPLUS_", "CORECLR_", "PHP", "LUA_", "RUST_", // languages
		"SSL", "OPENSSL_", "CURL_", "GRPC_", "GIT_", "XDG_", // TLS, and tools that plugins call
		"KUBE", "KEYFERRY_",
	)
}

// isOfCloud reports whether the libraries of clouds read a variable. Some of these variables change
// the identity, the address or a program that the plugin runs; others only name a tenant. The
// operator has to list those that a ClusterProfile may set.
func isOfCloud(name string) bool {
	return hasPrefix(strings.ToUpper(name), "AWS_", "AZURE_", "AAD_", "ARM_", "MSI_", "IDENTITY_", "IMDS_", "GOOGLE_", "GCE_", "GCLOUD_", "GCP_", "CLOUDSDK_",
		"OCI_", "ALIBABA_", "ALICLOUD_", "OS_", "IBMCLOUD_", "VAULT_")
}

func hasPrefix(name string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}
