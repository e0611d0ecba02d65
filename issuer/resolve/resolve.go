// Package resolve says what a TargetCluster comes to: where the target is, who issues credentials
// of it, and how Pods are given them.
//
// It decides by what has been read, and asks nobody: the caller reads Secrets and
// ClusterProfiles, and has the providers issue.
package resolve

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/subjecttoken"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/clientcertificate"
	"github.com/keyferry/keyferry/providers/exec"
	"github.com/keyferry/keyferry/providers/tokenrequest"
)

// Without a duration in the spec, which the API server defaults but files given to the command line
// do not have.
const defaultDuration = time.Hour

// Config is what does not come from a TargetCluster.
type Config struct {
	// Policy says which addresses providers, targets and proxies may have, and who may use this
	// process's own identity.
	Policy endpoint.Policy
	// SystemRoots, LocalAudiences and ClusterID are those of the issuer's Config.
	SystemRoots    func() ([]byte, error)
	LocalAudiences []string
	ClusterID      string
	// Requests are cert-manager's; nil if client certificates are not issued.
	Requests *clientcertificate.Requests
	// Now is the clock.
	Now func() time.Time
}

// Resolver resolves TargetClusters. It may be used concurrently.
type Resolver struct {
	cfg     Config
	plugins *exec.Slots
}

// New returns a Resolver.
func New(cfg Config) *Resolver {
	return &Resolver{cfg: cfg, plugins: exec.NewSlots()}
}

// Given is what has been read of what a TargetCluster names.
type Given struct {
	// Secret is the one that AccessSecret names; zero if it names none.
	Secret Secret
	// Fleet is zero where the TargetCluster has neither a ClusterProfile nor a plugin.
	Fleet Fleet
	// Keep returns what asks a provider for access only when that is due.
	Keep func(provider providers.Provider) providers.Provider
}

// Resolution is what a TargetCluster and its Secrets come to.
type Resolution struct {
	// Endpoint is complete, as far as it is known before a credential is issued. With SystemRoots it
	// has no CertificateAuthority: crypto/x509 has these certificates.
	Endpoint endpoint.Endpoint
	// Access is how Keyferry itself gets in; nil if it does not.
	Access providers.Provider
	// Issue issues what Pods are given; nil if nobody does.
	Issue providers.Provider
	// Delivery is Direct or Proxy, and DeliveryReason says why in a sentence.
	Delivery       v1alpha1.Delivery
	DeliveryReason string
	// Warning is a sentence about what works, and should not be so; empty if there is nothing.
	Warning string
	// SubjectAudience is the audience of the Pod's own token that the provider exchanges
	// (Request.SubjectToken); empty if it needs none.
	SubjectAudience string
	// InPod is set if a plugin in the Pod issues the credential.
	InPod *InPod

	// known are the endpoints of the spec and the ClusterProfile: they win over that of the issued
	// credential.
	known endpoints
}

// Resolve returns what a TargetCluster that Check lets through comes to. Its errors are an
// *InvalidError, next to which the Resolution is filled as far as it is known.
func (r *Resolver) Resolve(cluster *v1alpha1.TargetCluster, given Given) (Resolution, error) {
	if OfProfile(cluster) { // what admission asks as well
		if _, err := given.Fleet.File.Target(given.Fleet.Profile, r.cfg.Policy); err != nil {
			return Resolution{}, invalidProfile(err)
		}
	}
	access, err := r.access(cluster, given.Secret, given.Fleet)
	if err != nil {
		return Resolution{}, err
	}
	resolution, err := r.place(cluster, given.Fleet, access)
	if access.provider != nil {
		resolution.Access = given.Keep(access.provider)
	}
	if err == nil && resolution.Endpoint.SystemRoots {
		_, err = r.systemRoots()
	}
	if err != nil || cluster.Spec.Issue.Type == v1alpha1.IssueFederation {
		return resolution, err
	}
	resolution.Issue = access.provider
	if access.inPod != nil {
		resolution.Issue = notHere{r.cfg.Now}
	}
	switch cluster.Spec.Issue.Type { //nolint:exhaustive // the others hand on what access.provider has
	case v1alpha1.IssueTokenRequest:
		resolution.Issue, err = r.tokenRequest(cluster, resolution)
	case v1alpha1.IssueClientCertificate:
		err = r.clientCertificate(cluster, &resolution)
	}
	return resolution, err
}

// ResolveSpec returns where a TargetCluster's Pods find the target, and how they get there, by its
// spec alone: a Secret that it names is not read, and it must name no ClusterProfile. plugins is
// the operator's provider file, nil if it is not known. Its errors are an *InvalidError.
//
// The Resolution issues nothing. With a kubeconfig, which may say otherwise, the certificate
// authority may be missing and the credential counts as a token.
func (r *Resolver) ResolveSpec(cluster *v1alpha1.TargetCluster, plugins *clusterprofile.ProviderFile) (Resolution, error) {
	if err := Check(cluster.Spec); err != nil {
		return Resolution{}, err
	}
	row, _ := rowOf(cluster.Spec.Access.Type)
	switch name, _ := AccessSecret(cluster.Spec.Access); {
	case name == "" || row.withoutSecret:
	case row.accessType == v1alpha1.AccessKubeconfig:
		return r.place(cluster, Fleet{}, access{knownFrom: "Secret " + cluster.Namespace + "/" + name, unread: true})
	default: // the Secret contains neither an endpoint nor a credential for the target
		return r.place(cluster, Fleet{}, access{certificate: row.certificate})
	}
	fleet := Fleet{File: plugins}
	if cluster.Spec.Access.Type == v1alpha1.AccessExec && plugins == nil {
		if err := r.checkRunIn(cluster); err != nil {
			return Resolution{}, err
		}
		return r.place(cluster, fleet, access{})
	}
	access, err := r.access(cluster, Secret{}, fleet)
	if err != nil {
		return Resolution{}, err
	}
	return r.place(cluster, fleet, access)
}

// place fills in where the target is, and how Pods get there.
func (r *Resolver) place(cluster *v1alpha1.TargetCluster, fleet Fleet, access access) (Resolution, error) {
	known, err := fleet.endpoints(cluster)
	if err != nil {
		return Resolution{}, err
	}
	resolution := Resolution{
		Warning: access.warning, known: known, InPod: access.inPod,
		SubjectAudience: subjecttoken.Audience(cluster.Spec.Access),
	}
	if access.knownFrom != "" {
		known = append(slices.Clip(known), origin{Endpoint: access.endpoint, object: access.knownFrom})
	}
	if resolution.Endpoint, err = r.check(known); err != nil {
		return resolution, err
	}
	if cluster.Spec.Issue.Type == v1alpha1.IssueFederation {
		return r.federation(cluster, resolution)
	}
	certificate := cluster.Spec.Issue.Type == v1alpha1.IssueAccess && access.certificate || cluster.Spec.Issue.Type == v1alpha1.IssueClientCertificate
	resolution.Delivery, resolution.DeliveryReason, err = deliver(cluster.Spec.Delivery, resolution.Endpoint, certificate)
	if err == nil && !access.unread {
		err = checkAuthority(resolution.Endpoint)
	}
	return resolution, err
}

// Deliver returns where a credential of a Resolution is good, and how it gets there, now that the
// provider may have said more of that.
func (r *Resolver) Deliver(cluster *v1alpha1.TargetCluster, resolution Resolution, credential providers.Credential) (endpoint.Endpoint, v1alpha1.Delivery, error) {
	at, err := r.check(append(slices.Clip(resolution.known), origin{Endpoint: credential.Endpoint, object: "the issued credential"}))
	if err != nil {
		return endpoint.Endpoint{}, "", err
	}
	delivery, _, err := deliver(cluster.Spec.Delivery, at, len(credential.ClientCertificate) > 0)
	if err == nil {
		err = checkAuthority(at)
	}
	if err == nil && at.SystemRoots {
		at.CertificateAuthority, err = r.systemRoots()
	}
	return at, delivery, err
}

// tokenRequest builds the provider of spec.issue.tokenRequest.
func (r *Resolver) tokenRequest(cluster *v1alpha1.TargetCluster, resolution Resolution) (providers.Provider, error) {
	spec := cluster.Spec.Issue.TokenRequest
	cfg := tokenrequest.Config{
		Access:    resolution.Access,
		Endpoint:  resolution.Endpoint,
		Egress:    r.cfg.Policy,
		Create:    spec.Create,
		Revocable: spec.Revocable,
		Audiences: spec.Audiences,
		Duration:  defaultDuration,
		Now:       r.cfg.Now,
	}
	if spec.Duration != nil {
		cfg.Duration = spec.Duration.Duration
	}
	if spec.ServiceAccount.Type == v1alpha1.ServiceAccountFixed {
		cfg.ServiceAccount = types.NamespacedName{Namespace: spec.ServiceAccount.Namespace, Name: spec.ServiceAccount.Name}
	}
	if r.cfg.ClusterID != "" {
		cfg.Owner = r.cfg.ClusterID + "/" + cluster.Namespace + "/" + cluster.Name
	}
	provider, err := tokenrequest.New(cfg)
	if err != nil {
		return nil, &InvalidError{Reason: ReasonNotSupported, Message: "spec.issue.tokenRequest: " + err.Error()}
	}
	return provider, nil
}
