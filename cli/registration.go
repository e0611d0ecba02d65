package cli

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/onboard"
)

// readyTimeout is longer than the controller's longest time between two attempts, 2m24s.
const readyTimeout = 5 * time.Minute

// registration is the flags that target add and target import share.
type registration struct {
	preview preview
	account string
	roots   string
	timeout time.Duration
	request onboard.Request
}

func (r *registration) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&r.account, "service-account", "", "ServiceAccount in the target, as NAMESPACE/NAME, that Pods act as; the command creates a missing ServiceAccount "+
		"(default: a ServiceAccount for this TargetCluster in the namespace "+onboard.PodsNamespace+")")
	flags.StringSliceVar(&r.request.Mirror, "mirror", nil, "Pods of these namespaces act as the ServiceAccount in the target that has the same namespace and name as their own ServiceAccount")
	flags.BoolVar(&r.request.Create, "create", false, "create each ServiceAccount in the target when a Pod first needs it")
	flags.StringVar(&r.request.Role, "role", "", "ClusterRole of the target, such as view or edit, to bind to the Pods' ServiceAccount in all namespaces (default: none)")
	flags.StringVar(&r.roots, "well-known-ca-certificates", "", "System: verify the target with the public CA certificates in Keyferry's image, instead of the kubeconfig's CA")
	flags.DurationVar(&r.timeout, "timeout", readyTimeout, "how long to wait until the TargetCluster is ready")
	_ = cmd.RegisterFlagCompletionFunc("well-known-ca-certificates", // the flag is there
		cobra.FixedCompletions([]string{string(v1alpha1.WellKnownCACertificatesSystem)}, cobra.ShellCompDirectiveNoFileComp))
	r.preview.addTo(cmd)
}

// requestFor returns what the flags ask for, for one TargetCluster.
func (r *registration) requestFor(name types.NamespacedName) (onboard.Request, error) {
	request := r.request
	request.Name = name
	if r.account != "" {
		account, err := parseName("ServiceAccount", r.account, "")
		if err != nil || account.Namespace == "" {
			return request, fmt.Errorf("--service-account %.128q: write it as NAMESPACE/NAME", r.account)
		}
		request.Account = account
	}
	if r.roots != "" && r.roots != string(v1alpha1.WellKnownCACertificatesSystem) {
		return request, fmt.Errorf("--well-known-ca-certificates %.64q is not known: use %s", r.roots, v1alpha1.WellKnownCACertificatesSystem)
	}
	complete := request // with the defaults of its final name
	complete.Name.Namespace = cmp.Or(complete.Name.Namespace, metav1.NamespaceDefault)
	return request, errors.Join(complete.Complete(), r.preview.check())
}

// apply sets what the flags say about the endpoint. Without a CA the TargetCluster would not work.
func (r *registration) apply(adder *onboard.Adder) error {
	adder.Timeout = r.timeout
	if r.roots != "" {
		adder.Endpoint.CertificateAuthority, adder.Endpoint.SystemRoots = nil, true
	}
	if len(adder.Endpoint.CertificateAuthority) == 0 && !adder.Endpoint.SystemRoots {
		return fmt.Errorf("kubeconfig %s: the cluster has no certificate-authority-data, which Pods need to verify the target: "+
			"set it, or add --well-known-ca-certificates System if a public CA has issued the server's certificate", adder.Administrator.File)
	}
	return nil
}

// sections are the objects of both clusters, for a preview.
func sections(adder *onboard.Adder) ([]section, error) {
	target, management, err := adder.Preview()
	if err != nil {
		return nil, err
	}
	secret := onboard.AccessNamespace + "/" + adder.TokenSecret()
	return []section{
		{comment: "# In the target\n", objects: target},
		{comment: "# In the management cluster. The token is in Secret " + secret + " of the target.\n", objects: management},
	}, nil
}
