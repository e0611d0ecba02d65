package issuer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/tokenrequest"
)

const (
	// How late a change of a Secret may be noticed. It keeps thousands of polling Pods from reading it as often.
	secretAge     = 5 * time.Second
	secretTimeout = 5 * time.Second

	// How long a resolution of the same TargetCluster and Secret is kept.
	resolutionAge = time.Hour

	// Without a duration in the spec, which the API server defaults but files given to the command line do not have.
	defaultDuration = time.Hour
)

// Resolution is what a TargetCluster and its Secrets come to.
type Resolution struct {
	// Endpoint is complete, as far as it is known before a credential is issued.
	Endpoint providers.Endpoint
	// Access is how Keyferry itself gets in; nil if it does not.
	Access providers.Provider
	// Delivery is Direct or Proxy, and DeliveryReason says why in a sentence.
	Delivery       v1alpha1.Delivery
	DeliveryReason string
	// Warning is a sentence about what works, and should not be so; empty if there is nothing.
	Warning string
	// SubjectAudience is the audience of the Pod's own token that the source exchanges (Request.SubjectToken); empty if it needs none.
	SubjectAudience string

	key   resolutionKey
	issue providers.Provider
	// given is what the spec or the ClusterProfile says of the endpoint: it wins over what the source says when it issues.
	given providers.Endpoint
	inPod *InPod
}

// resolutionKey is all that a Resolution depends on.
type resolutionKey struct {
	name       types.NamespacedName
	uid        types.UID
	generation int64
	// secrets are the resourceVersions of those that the spec names.
	secrets string
	// profile is the version of the ClusterProfile that the spec names.
	profile string
	// file is the provider file, if it has to do with it.
	file *clusterprofile.ProviderFile
}

// Reasons of an InvalidError, for the condition Resolved.
const (
	ReasonSecretNotFound         = "SecretNotFound"
	ReasonSecretForbidden        = "SecretForbidden"
	ReasonInvalidKubeconfig      = "InvalidKubeconfig"
	ReasonInvalidAccess          = "InvalidAccess"
	ReasonInvalidEndpoint        = "InvalidEndpoint"
	ReasonAddressRefused         = "AddressRefused"
	ReasonAmbientRefused         = "AmbientRefused"
	ReasonNoCertificateAuthority = "NoCertificateAuthority"
	ReasonDirectNotPossible      = "DirectNotPossible"
	ReasonInvalidIssue           = "InvalidIssue"
	ReasonCertManagerMissing     = "CertManagerMissing"
	ReasonNotSupported           = v1alpha1.ReasonNotSupported
)

// InvalidError says that a TargetCluster or its Secrets make no sense: nothing helps until somebody changes them.
type InvalidError struct {
	// Reason is one of the reasons above.
	Reason string
	// Message names the object, the field and the mend.
	Message string
}

func (e *InvalidError) Error() string { return e.Message }

// Resolve returns what a TargetCluster and its Secrets come to. It reads Secrets and ClusterProfiles, at most some seconds late, and does not
// contact the target. Its errors are an *InvalidError, next to which the Resolution is filled as far as it is known, or wrap
// providers.ErrUnavailable.
func (i *Issuer) Resolve(ctx context.Context, cluster *v1alpha1.TargetCluster) (Resolution, error) {
	if err := checkSupported(cluster.Spec); err != nil {
		return Resolution{}, err
	}
	if err := i.checkCertManager(ctx, cluster); err != nil {
		return Resolution{}, err
	}
	used, err := i.usedSecret(ctx, cluster)
	if err != nil {
		return Resolution{}, err
	}
	fleet, err := i.usedFleet(ctx, cluster)
	if err != nil {
		return Resolution{}, err
	}
	key := resolutionKey{
		name:       types.NamespacedName{Namespace: cluster.Namespace, Name: cluster.Name},
		uid:        cluster.UID,
		generation: cluster.Generation,
		secrets:    used.uid + "/" + used.resourceVersion,
		profile:    fleet.version,
		file:       fleet.file,
	}
	// Kept for the connections that its providers hold.
	return i.resolutions.get(ctx, key, func(context.Context, answer[Resolution]) answer[Resolution] {
		resolution, err := i.resolve(cluster, used, fleet, key)
		end := i.cfg.Now().Add(resolutionAge)
		return answer[Resolution]{value: resolution, err: err, until: end, expires: end}
	})
}

// resolve is Resolve without I/O.
func (i *Issuer) resolve(cluster *v1alpha1.TargetCluster, used secret, fleet fleet, key resolutionKey) (Resolution, error) {
	access, err := i.access(cluster, used, fleet)
	if err != nil {
		return Resolution{}, err
	}
	given, from, err := fleet.endpoint(cluster)
	if err != nil {
		return Resolution{}, err
	}
	resolution := Resolution{key: key, Access: i.keep(key, cluster.Spec, access.source), Warning: access.warning, given: given, inPod: access.inPod}
	if exchanger, ok := access.source.(providers.SubjectExchanger); ok {
		resolution.SubjectAudience = exchanger.SubjectAudience()
	}
	resolution.Endpoint, err = i.checkEndpoint(given.Or(access.endpoint), cmp.Or(from, access.knownFrom))
	if err != nil {
		return resolution, err
	}
	if err := fleet.checkAuthority(resolution.Endpoint); err != nil {
		return resolution, err
	}
	if cluster.Spec.Issue.Type == v1alpha1.IssueFederation {
		return i.federation(cluster, resolution)
	}
	certificate := cluster.Spec.Issue.Type == v1alpha1.IssueAccess && access.certificate || cluster.Spec.Issue.Type == v1alpha1.IssueClientCertificate
	resolution.Delivery, resolution.DeliveryReason, err = decideDelivery(cluster.Spec.Delivery, resolution.Endpoint, certificate)
	if err != nil {
		return resolution, err
	}
	resolution.issue = access.source
	if access.inPod != nil {
		resolution.issue = notHere{i.cfg.Now}
	}
	switch cluster.Spec.Issue.Type { //nolint:exhaustive // the others hand on what access.source has
	case v1alpha1.IssueTokenRequest:
		resolution.issue, err = i.tokenRequest(cluster, resolution)
	case v1alpha1.IssueClientCertificate:
		err = i.clientCertificate(cluster, &resolution)
	}
	return resolution, err
}

// tokenRequest builds the provider of spec.issue.tokenRequest.
func (i *Issuer) tokenRequest(cluster *v1alpha1.TargetCluster, resolution Resolution) (providers.Provider, error) {
	spec := cluster.Spec.Issue.TokenRequest
	cfg := tokenrequest.Config{
		Access:    resolution.Access,
		Endpoint:  resolution.Endpoint,
		Egress:    i.egress,
		Create:    spec.Create,
		Revocable: spec.Revocable,
		Audiences: spec.Audiences,
		Duration:  defaultDuration,
		Now:       i.cfg.Now,
	}
	if spec.Duration != nil {
		cfg.Duration = spec.Duration.Duration
	}
	if spec.ServiceAccount.Type == v1alpha1.ServiceAccountFixed {
		cfg.ServiceAccount = types.NamespacedName{Namespace: spec.ServiceAccount.Namespace, Name: spec.ServiceAccount.Name}
	}
	if i.cfg.ClusterID != "" {
		cfg.Owner = i.cfg.ClusterID + "/" + cluster.Namespace + "/" + cluster.Name
	}
	provider, err := tokenrequest.New(cfg)
	if err != nil {
		return nil, &InvalidError{Reason: ReasonNotSupported, Message: "spec.issue.tokenRequest: " + err.Error()}
	}
	return provider, nil
}

func unsupported(what, mend string) error {
	return &InvalidError{Reason: ReasonNotSupported, Message: what + " is not supported by this version: " + mend}
}

// checkSupported refuses what the API has and this version does not. What it lets through is complete, also where no
// API server has looked at it.
func checkSupported(spec v1alpha1.TargetClusterSpec) error {
	if spec.ClusterProfile != nil && spec.Endpoint != nil {
		return unsupported("spec.clusterProfile next to spec.endpoint", "remove one of them")
	}
	if err := checkAccess(spec.Access); err != nil {
		return err
	}
	if spec.Access.Type == v1alpha1.AccessExec {
		if err := checkExec(spec); err != nil {
			return err
		}
	}
	switch {
	case spec.Issue.Type == v1alpha1.IssueFederation:
		return checkFederation(spec)
	case spec.Issue.Type == v1alpha1.IssueClientCertificate && spec.Issue.ClientCertificate != nil:
		return nil
	case spec.Access.Type == v1alpha1.AccessNone:
		return unsupported(fmt.Sprintf("spec.access.type None with spec.issue.type %s", spec.Issue.Type), "use issue type Federation or ClientCertificate")
	case spec.Issue.Type == v1alpha1.IssueAccess:
		return nil
	case spec.Issue.Type != v1alpha1.IssueTokenRequest || spec.Issue.TokenRequest == nil:
		return unsupported(fmt.Sprintf("spec.issue.type %s", spec.Issue.Type), "use TokenRequest or ClientCertificate, and set the field of that name, or use Access or Federation")
	}
	switch account := spec.Issue.TokenRequest.ServiceAccount; {
	case account.Type == v1alpha1.ServiceAccountMirror:
		return nil
	case account.Type != v1alpha1.ServiceAccountFixed || account.Namespace == "" || account.Name == "":
		return unsupported(fmt.Sprintf("spec.issue.tokenRequest.serviceAccount type %s without namespace and name", account.Type), "use Fixed with both, or Mirror")
	}
	return nil
}

// secret is what is kept of a Secret.
type secret struct {
	name            types.NamespacedName
	uid             string
	resourceVersion string
	labels          map[string]string
	data            map[string][]byte
}

// String returns the Secret's name as messages show it; empty if there is none.
func (s secret) String() string {
	if s.name.Name == "" {
		return ""
	}
	return s.name.String()
}

// usedSecret returns the Secret that spec.access names; the zero value if it names none.
func (i *Issuer) usedSecret(ctx context.Context, cluster *v1alpha1.TargetCluster) (secret, error) {
	name, field := accessSecret(cluster.Spec.Access)
	if name == "" {
		return secret{}, nil
	}
	key := types.NamespacedName{Namespace: cluster.Namespace, Name: name}
	read, err := i.secret(ctx, key)
	if err != nil {
		return secret{}, secretError(key, field, err)
	}
	return read, nil
}

// secret reads a Secret, or returns what was read shortly before.
func (i *Issuer) secret(ctx context.Context, name types.NamespacedName) (secret, error) {
	return i.secrets.get(ctx, name, func(ctx context.Context, _ answer[secret]) answer[secret] {
		ctx, cancel := context.WithTimeout(ctx, secretTimeout)
		defer cancel()
		var read corev1.Secret
		if err := i.cfg.Secrets.Get(ctx, name, &read); err != nil {
			return answer[secret]{err: err}
		}
		until := i.cfg.Now().Add(secretAge)
		return answer[secret]{until: until, expires: until, value: secret{
			name:            name,
			uid:             string(read.UID),
			resourceVersion: read.ResourceVersion,
			labels:          read.Labels,
			data:            read.Data,
		}}
	})
}

func secretError(name types.NamespacedName, field string, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return &InvalidError{Reason: ReasonSecretNotFound, Message: fmt.Sprintf(
			"Secret %s, which %s names, does not exist: create it", name, field)}
	case apierrors.IsForbidden(err):
		return &InvalidError{Reason: ReasonSecretForbidden, Message: fmt.Sprintf(
			"Secret %s may not be read: add %s to the chart value secretAccess.namespaces", name, name.Namespace)}
	case errors.Is(err, providers.ErrUnavailable): // it is the waiting that failed
		return fmt.Errorf("reading Secret %s: %w", name, err)
	}
	return providers.Unavailable(0, fmt.Errorf("reading Secret %s: %w", name, err))
}
