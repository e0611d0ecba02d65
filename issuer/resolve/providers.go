package resolve

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers/ack"
	"github.com/keyferry/keyferry/providers/aks"
	"github.com/keyferry/keyferry/providers/eks"
	"github.com/keyferry/keyferry/providers/gke"
	"github.com/keyferry/keyferry/providers/kubeconfig"
	"github.com/keyferry/keyferry/providers/ncp"
	"github.com/keyferry/keyferry/providers/spider"
	"github.com/keyferry/keyferry/providers/tumblebug"
)

// row describes an access type and its provider. Whatever depends on the access type is read from
// the table, or from the optional interfaces of package providers.
type row struct {
	accessType v1alpha1.AccessType
	// field is the field of spec.access that the type requires; empty for None.
	field string
	// isSet reports whether the field is set.
	isSet func(v1alpha1.Access) bool
	// secret returns the reference to the Secret in the field, which is set; nil if the type has none.
	secret func(v1alpha1.Access) *v1alpha1.SecretReference
	// secretField is the field below field that names the Secret.
	secretField string
	// secretTypes are the types of Secrets that are read, besides Opaque.
	secretTypes []corev1.SecretType
	// hostField is the field below field that names the host of the provider; empty if none does.
	hostField string
	// withoutSecret is true if the provider may need no credential.
	withoutSecret bool
	// certificate is true if the provider always issues client certificates.
	certificate bool
	// newAccess constructs the provider. Its errors are an *InvalidError, or name the field of the
	// configuration or the Secret.
	newAccess func(*Resolver, *v1alpha1.TargetCluster, Secret, Fleet) (access, error)
}

const credentialsName = "credentials.name"

// table returns one row for each access type.
func table() []row {
	return []row{
		{
			accessType: v1alpha1.AccessKubeconfig, field: "kubeconfig",
			isSet: func(a v1alpha1.Access) bool { return a.Kubeconfig != nil },
			secret: func(a v1alpha1.Access) *v1alpha1.SecretReference {
				return &v1alpha1.SecretReference{Name: a.Kubeconfig.Name}
			},
			secretField: "name", secretTypes: []corev1.SecretType{secretTypeClusterAPI, secretTypeCrossplane},
			newAccess: (*Resolver).kubeconfig,
		},
		{
			accessType: v1alpha1.AccessEKS, field: "eks",
			isSet:       func(a v1alpha1.Access) bool { return a.EKS != nil },
			secret:      func(a v1alpha1.Access) *v1alpha1.SecretReference { return a.EKS.Credentials },
			secretField: credentialsName,
			newAccess:   (*Resolver).eks,
		},
		{
			accessType: v1alpha1.AccessGKE, field: "gke",
			isSet:       func(a v1alpha1.Access) bool { return a.GKE != nil },
			secret:      func(a v1alpha1.Access) *v1alpha1.SecretReference { return a.GKE.Credentials },
			secretField: credentialsName,
			newAccess:   (*Resolver).gke,
		},
		{
			accessType: v1alpha1.AccessAKS, field: "aks",
			isSet:       func(a v1alpha1.Access) bool { return a.AKS != nil },
			secret:      func(a v1alpha1.Access) *v1alpha1.SecretReference { return a.AKS.Credentials },
			secretField: credentialsName, hostField: "authorityHost",
			newAccess: (*Resolver).aks,
		},
		{
			accessType: v1alpha1.AccessACK, field: "ack", certificate: true,
			isSet:       func(a v1alpha1.Access) bool { return a.ACK != nil },
			secret:      func(a v1alpha1.Access) *v1alpha1.SecretReference { return &a.ACK.Credentials },
			secretField: credentialsName,
			newAccess:   (*Resolver).ack,
		},
		{
			accessType: v1alpha1.AccessNCP, field: "ncp",
			isSet:       func(a v1alpha1.Access) bool { return a.NCP != nil },
			secret:      func(a v1alpha1.Access) *v1alpha1.SecretReference { return &a.NCP.Credentials },
			secretField: credentialsName,
			newAccess:   (*Resolver).ncp,
		},
		{
			accessType: v1alpha1.AccessSpider, field: "spider",
			isSet:       func(a v1alpha1.Access) bool { return a.Spider != nil },
			secret:      func(a v1alpha1.Access) *v1alpha1.SecretReference { return a.Spider.Credentials },
			secretField: credentialsName, hostField: "url", withoutSecret: true,
			newAccess: (*Resolver).spider,
		},
		{
			accessType: v1alpha1.AccessTumblebug, field: "tumblebug",
			isSet:       func(a v1alpha1.Access) bool { return a.Tumblebug != nil },
			secret:      func(a v1alpha1.Access) *v1alpha1.SecretReference { return a.Tumblebug.Credentials },
			secretField: credentialsName, hostField: "url", withoutSecret: true,
			newAccess: (*Resolver).tumblebug,
		},
		{
			accessType: v1alpha1.AccessExec, field: "exec", withoutSecret: true,
			isSet:     func(a v1alpha1.Access) bool { return a.Exec != nil },
			newAccess: (*Resolver).exec,
		},
		{
			accessType: v1alpha1.AccessNone, withoutSecret: true,
			isSet:     func(v1alpha1.Access) bool { return true },
			newAccess: func(*Resolver, *v1alpha1.TargetCluster, Secret, Fleet) (access, error) { return access{}, nil },
		},
	}
}

// rowOf returns the row of an access type, and whether there is one.
func rowOf(accessType v1alpha1.AccessType) (row, bool) {
	for _, r := range table() {
		if r.accessType == accessType {
			return r, true
		}
	}
	return row{}, false
}

// path returns the path of a field below the row's field, such as spec.access.eks.region.
func (r row) path(below string) string { return "spec.access." + r.field + "." + below }

// accessTypes returns the access types that have a provider, as "A, B or C".
func accessTypes() string {
	var names []string
	for _, r := range table() {
		if r.field != "" {
			names = append(names, string(r.accessType))
		}
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// AccessSecret returns the name of the Secret that spec.access names, and the path of the field
// that names it. The name is empty if there is none.
func AccessSecret(spec v1alpha1.Access) (name, field string) {
	r, ok := rowOf(spec.Type)
	if !ok || r.secret == nil || !r.isSet(spec) {
		return "", ""
	}
	reference := r.secret(spec)
	if reference == nil {
		return "", ""
	}
	return reference.Name, r.path(r.secretField)
}

// NeedsSecret reports whether a provider authenticates with a Secret, unless another identity is
// selected.
func NeedsSecret(accessType v1alpha1.AccessType) bool {
	r, ok := rowOf(accessType)
	return ok && !r.withoutSecret
}

func (r *Resolver) kubeconfig(cluster *v1alpha1.TargetCluster, s Secret, _ Fleet) (access, error) {
	provider, err := kubeconfig.New(kubeconfig.Config{
		Secret:   s.String(),
		Labels:   s.Labels,
		Data:     s.Data,
		Key:      cluster.Spec.Access.Kubeconfig.Key,
		Replaced: specEndpoint(cluster),
		Now:      r.cfg.Now,
	})
	if err != nil {
		return access{}, &InvalidError{Reason: ReasonInvalidKubeconfig, Message: err.Error()}
	}
	return access{provider: provider, endpoint: provider.Endpoint(), knownFrom: "Secret " + s.String(), certificate: provider.IsCertificate()}, nil
}

func (r *Resolver) eks(cluster *v1alpha1.TargetCluster, s Secret, _ Fleet) (access, error) {
	spec := cluster.Spec.Access.EKS
	if err := r.checkIdentity(cluster, spec.Identity); err != nil {
		return access{}, err
	}
	return newAccess(eks.New(eks.Config{
		ClusterName: spec.ClusterName,
		Region:      spec.Region,
		FIPS:        spec.FIPS,
		Identity:    eks.Identity(spec.Identity),
		RoleARN:     spec.RoleARN,
		Secret:      s.String(),
		Data:        s.Data,
		Egress:      r.cfg.Policy,
		Now:         r.cfg.Now,
	}))
}

func (r *Resolver) gke(cluster *v1alpha1.TargetCluster, s Secret, _ Fleet) (access, error) {
	spec := cluster.Spec.Access.GKE
	if err := r.checkIdentity(cluster, spec.Identity); err != nil {
		return access{}, err
	}
	return newAccess(gke.New(gke.Config{
		Identity:                 gke.Identity(spec.Identity),
		WorkloadIdentityProvider: spec.WorkloadIdentityProvider,
		Impersonate:              spec.Impersonate,
		Secret:                   s.String(),
		Data:                     s.Data,
		Egress:                   r.cfg.Policy,
		Now:                      r.cfg.Now,
	}))
}

func (r *Resolver) aks(cluster *v1alpha1.TargetCluster, s Secret, _ Fleet) (access, error) {
	spec := cluster.Spec.Access.AKS
	return newAccess(aks.New(aks.Config{
		Identity:      aks.Identity(spec.Identity),
		ClientID:      spec.ClientID,
		TenantID:      spec.TenantID,
		AuthorityHost: spec.AuthorityHost,
		Secret:        s.String(),
		Data:          s.Data,
		Egress:        r.cfg.Policy,
		Now:           r.cfg.Now,
	}))
}

func (r *Resolver) ack(cluster *v1alpha1.TargetCluster, s Secret, _ Fleet) (access, error) {
	spec := cluster.Spec.Access.ACK
	cfg := ack.Config{
		ClusterID:        spec.ClusterID,
		Region:           spec.Region,
		PrivateIPAddress: spec.PrivateIPAddress,
		Secret:           s.String(),
		Data:             s.Data,
		Parse:            kubeconfig.Parse,
		Egress:           r.cfg.Policy,
		Now:              r.cfg.Now,
	}
	if spec.Duration != nil {
		cfg.Duration = spec.Duration.Duration
	}
	return newAccess(ack.New(cfg))
}

func (r *Resolver) ncp(cluster *v1alpha1.TargetCluster, s Secret, _ Fleet) (access, error) {
	spec := cluster.Spec.Access.NCP
	return newAccess(ncp.New(ncp.Config{
		ClusterUUID: spec.ClusterUUID,
		Region:      spec.Region,
		Secret:      s.String(),
		Data:        s.Data,
		Now:         r.cfg.Now,
	}))
}

func (r *Resolver) spider(cluster *v1alpha1.TargetCluster, s Secret, _ Fleet) (access, error) {
	spec := cluster.Spec.Access.Spider
	return newAccess(spider.New(spider.Config{
		URL:        spec.URL,
		Cluster:    spec.Cluster,
		Connection: spec.Connection,
		Secret:     s.String(),
		Data:       s.Data,
		Egress:     r.cfg.Policy,
		Now:        r.cfg.Now,
	}))
}

func (r *Resolver) tumblebug(cluster *v1alpha1.TargetCluster, s Secret, _ Fleet) (access, error) {
	spec := cluster.Spec.Access.Tumblebug
	return newAccess(tumblebug.New(tumblebug.Config{
		URL:              spec.URL,
		Namespace:        spec.Namespace,
		Cluster:          spec.Cluster,
		CredentialHolder: spec.CredentialHolder,
		Secret:           s.String(),
		Data:             s.Data,
		Egress:           r.cfg.Policy,
		Now:              r.cfg.Now,
	}))
}
