package clusterprofile

import (
	"fmt"
	"slices"
	"strings"
)

// execInfo is the variable by which a plugin is asked.
const execInfo = "KUBERNETES_EXEC_INFO"

// isEnvName reports whether each shell and each library agrees that this is the name of a variable.
func isEnvName(name string) bool {
	return name != "" && len(name) <= maxName && (name[0] < '0' || name[0] > '9') &&
		strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// checkProfileSets refuses the name of a variable that a ClusterProfile may not set. It may set
// those that the operator has listed for the provider, or, without a list, those that have a
// meaning to the plugin only.
func (p provider) checkProfileSets(name string) error {
	switch {
	case !isEnvName(name):
		return fmt.Errorf("sets %.64q, which is no name of a variable", name)
	case isReserved(name):
		return fmt.Errorf("sets %s, which decides how a program runs and which no ClusterProfile may set: remove it there", name)
	case p.envNames == nil && isOfCloud(name), p.envNames != nil && !slices.Contains(p.envNames, name):
		return fmt.Errorf("sets %s, which the provider file does not let it: remove it there, or add it to profileSourcedEnvVarNames of provider %s", name, p.plugin.Name)
	}
	return nil
}

// isReserved reports whether a variable decides how a program runs, rather than what it does: what
// code it loads, where it finds other programs and its configuration, whom it believes, and which
// way its connections take. Who sets one of these has the program's identity; so a ClusterProfile
// never does, whatever a list says.
func isReserved(name string) bool {
	name = strings.ToUpper(name) // some, such as http_proxy, are read in both cases
	return strings.HasSuffix(name, "_PROXY") || slices.Contains([]string{
		"PATH", "SHELL", "IFS", "ENV", "CDPATH", "PS4", "PROMPT_COMMAND", // shells
		"HOME", "PWD", "OLDPWD", "TMP", "TEMP", "TMPDIR", "USER", "LOGNAME", "EDITOR", "VISUAL", "PAGER", "NETRC", // where programs look
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

// isOfCloud reports whether the libraries of clouds read a variable. By some the plugin would act
// as somebody else, ask another address, or run another program; by others it is told its tenant.
// The operator who means the latter lists them.
func isOfCloud(name string) bool {
	return hasPrefix(strings.ToUpper(name), "AWS_", "AZURE_", "AAD_", "ARM_", "MSI_", "IDENTITY_", "IMDS_", "GOOGLE_", "GCE_", "GCLOUD_", "GCP_", "CLOUDSDK_",
		"OCI_", "ALIBABA_", "ALICLOUD_", "OS_", "IBMCLOUD_", "VAULT_")
}

func hasPrefix(name string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}
