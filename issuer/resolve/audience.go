package resolve

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// CanonicalAudience returns what audiences are compared by. Servers differ in what they ignore:
// upper case, percent encoding, slashes at the end.
func CanonicalAudience(audience string) string {
	for range len(audience) { // an encoding can be encoded itself
		decoded, err := url.PathUnescape(audience)
		if err != nil || decoded == audience {
			break
		}
		audience = decoded
	}
	return strings.TrimRight(strings.ToLower(strings.TrimSpace(audience)), "/")
}

// exchanges are audiences of tokens that others exchange for an identity of the Pod, in canonical
// form.
var exchanges = []struct {
	accepts func(audience string) bool
	by      string
}{
	// https://docs.aws.amazon.com/eks/latest/userguide/iam-roles-for-service-accounts.html
	// https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
	{atHost("amazonaws.com", "amazonaws.com.cn", "amazonaws.eu"), "Amazon Web Services"},
	// https://learn.microsoft.com/entra/workload-id/workload-identity-federation-create-trust
	{beginsWith("api://azureadtokenexchange"), "Microsoft Entra ID"},
	// https://cloud.google.com/iam/docs/workload-identity-federation-with-kubernetes
	// https://cloud.google.com/kubernetes-engine/docs/concepts/workload-identity
	{atHost("googleapis.com", "id.goog"), "Google Cloud"},
	// https://www.alibabacloud.com/help/en/ack/ack-managed-and-ack-dedicated/user-guide/use-rrsa-to-authorize-pods-to-access-different-cloud-services
	{atHost("aliyuncs.com"), "Alibaba Cloud"},
	// The default client ID of the add-on pod-identity-webhook of Tencent Kubernetes Engine.
	{atHost("cloud.tencent.com"), "Tencent Cloud"},
	// https://external-secrets.io/latest/provider/volcengine/
	{atHost("volcengine.com"), "Volcano Engine"},
	// https://github.com/IBM-Cloud/trusted-profile-enterprise-security/blob/main/app.yaml
	{is("iam"), "IBM Cloud"},
	// https://istio.io/latest/docs/ops/best-practices/security/#configure-third-party-service-account-tokens
	{is("istio-ca"), "Istio"},
	// The first client ID of the identity provider of OpenShift clusters on AWS:
	// https://github.com/rh-mobb/terraform-aws-rosa-sts-operator-roles
	{is("openshift"), "OpenShift's cloud credentials"},
	// https://linkerd.io/2/features/automatic-mtls/
	{is("identity.l5d.io"), "Linkerd"},
	// https://docs.sigstore.dev/certificate_authority/oidc-in-fulcio/
	{is("sigstore"), "Sigstore"},
	// https://github.com/spiffe/spire/blob/main/doc/plugin_server_nodeattestor_k8s_psat.md
	{is("spire-server"), "SPIRE"},
	// https://developer.hashicorp.com/vault/docs/platform/k8s/vso/api-reference
	{is("vault"), "HashiCorp Vault"},
}

func is(name string) func(string) bool {
	return func(audience string) bool { return audience == name }
}

func beginsWith(prefix string) func(string) bool {
	return func(audience string) bool { return strings.HasPrefix(audience, prefix) }
}

// atHost matches the domains and everything in them, with or without a scheme, a port and a path.
func atHost(domains ...string) func(string) bool {
	return func(audience string) bool {
		host := audience
		if _, after, ok := strings.Cut(host, "//"); ok {
			host = after
		}
		host, _, _ = strings.Cut(host, "/")
		host, _, _ = strings.Cut(host, ":")
		host = strings.TrimSuffix(host, ".")
		for _, domain := range domains {
			if host == domain || strings.HasSuffix(host, "."+domain) {
				return true
			}
		}
		return false
	}
}

// checkAudience refuses an audience that others than the target accept. The target could present
// the Pods' tokens to them, and act there as the Pods. The error is an *InvalidError.
func (r *Resolver) checkAudience(audience string) error {
	taken := func(format string, args ...any) error {
		return &InvalidError{Reason: ReasonAudienceTaken, Message: fmt.Sprintf("spec.issue.federation.audience %q is ", audience) +
			fmt.Sprintf(format, args...) + ": use an audience that only the target accepts, such as its host"}
	}
	canonical := CanonicalAudience(audience)
	if canonical == v1alpha1.BrokerAudience {
		return taken("the audience of Keyferry's broker: the target could request credentials as the Pods")
	}
	for _, local := range r.cfg.LocalAudiences {
		if CanonicalAudience(local) == canonical {
			return taken("the audience of this cluster's API server: the target could act in this cluster as the Pods")
		}
	}
	for _, exchange := range exchanges {
		if exchange.accepts(canonical) {
			return taken("accepted by %s: the target could act there as the Pods", exchange.by)
		}
	}
	return nil
}
