package kubeconfig

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/keyferry/keyferry/endpoint"
)

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
	// Args are the program's, and Endpoint is the cluster that its credential is for. Error repeats
	// neither.
	Args     []string
	Endpoint endpoint.Endpoint
	// Known is what Error calls a program that is recognised; empty if it is not.
	Known string

	// fix is what to do about a program that has no access type.
	fix string
}

func (e *ExecError) Error() string {
	refused := e.Field + " runs a program, and Keyferry runs no program of a kubeconfig"
	if e.Known != "" {
		refused += "; it is " + e.Known
	}
	fix := "use the access type of that cloud, or Exec with a plugin that the operator provides"
	if e.AccessType != "" {
		fix = "use the access type " + e.AccessType
	}
	return fmt.Sprintf("%s: %s, or put a token or a client certificate into the kubeconfig", refused, cmp.Or(e.fix, fix))
}

const (
	serviceAccount = "use a kubeconfig with the token of a ServiceAccount"
	oidc           = "it logs a person in: " + serviceAccount
)

// recognised describes a program that kubeconfigs name.
type recognised struct{ known, accessType, fix string }

var (
	ofEKS  = recognised{known: "Amazon's for EKS", accessType: "EKS"}
	ofGKE  = recognised{known: "Google's for GKE", accessType: "GKE"}
	ofAKS  = recognised{known: "kubelogin of Azure", accessType: "AKS"}
	ofOIDC = recognised{known: "kubelogin for OpenID Connect", fix: oidc}
)

func newExecError(field, command string, args ...string) *ExecError {
	program := path.Base(strings.ReplaceAll(command, `\`, "/"))
	r := recognise(strings.TrimSuffix(program, ".exe"), args)
	return &ExecError{Field: field, Program: program, Args: args, AccessType: r.accessType, Known: r.known, fix: r.fix}
}

// recognise returns what is known of a program; the zero value if nothing is.
func recognise(program string, args []string) recognised {
	has := func(flag string) bool {
		return slices.ContainsFunc(args, func(arg string) bool { return arg == flag || strings.HasPrefix(arg, flag+"=") })
	}
	switch program {
	case "aws", "aws-iam-authenticator", "heptio-authenticator-aws":
		return ofEKS
	case "gke-gcloud-auth-plugin", "gcloud", "gcp":
		return ofGKE
	case "azure":
		return ofAKS
	case "kubelogin": // two programs have this name
		if has("--oidc-issuer-url") {
			return ofOIDC
		}
		return ofAKS
	case "kubectl-oidc_login", "oidc":
		return ofOIDC
	case "kubectl": // plugins are its first argument
		return recogniseKubectl(args)
	case "ncp-iam-authenticator":
		return recognised{known: "NAVER Cloud's for NKS", accessType: "NCP"}
	case "argocd-k8s-auth":
		return recogniseArgoCD(args)
	case "gardenlogin", "kubectl-gardenlogin":
		return recognised{known: "Gardener's gardenlogin", fix: "request the Shoot's adminkubeconfig, and run keyferry target add with it once"}
	case "tsh", "tbot":
		return recognised{known: "Teleport's", fix: "give the address of the cluster itself, not of Teleport, and " + serviceAccount}
	}
	return recogniseSpider(strings.Join(args, " "))
}

func recogniseKubectl(args []string) recognised {
	if len(args) == 0 {
		return recognised{}
	}
	return map[string]recognised{"oidc-login": ofOIDC, "gardenlogin": recognise("gardenlogin", nil)}[args[0]]
}

func recogniseArgoCD(args []string) recognised {
	if len(args) == 0 {
		return recognised{}
	}
	return map[string]recognised{"aws": ofEKS, "gcp": ofGKE, "azure": ofAKS}[args[0]]
}

// recogniseSpider knows the kubeconfigs of CB-Spider and CB-Tumblebug, which request tokens from
// their API with curl, or with a shell that runs curl.
func recogniseSpider(command string) recognised {
	switch {
	case strings.Contains(command, "/tumblebug/ns/"):
		return recognised{known: "a request to CB-Tumblebug", accessType: "Tumblebug"}
	case strings.Contains(command, "/spider/cluster/"):
		return recognised{known: "a request to CB-Spider", accessType: "Spider"}
	}
	return recognised{}
}
