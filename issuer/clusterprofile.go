package issuer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/providers"
)

// Reasons of an InvalidError that has to do with a ClusterProfile.
const (
	ReasonClusterProfileNotFound = "ClusterProfileNotFound"
	ReasonInvalidClusterProfile  = "InvalidClusterProfile"
)

// ClusterProfile returns what Issue issues from for a ClusterProfile that is used by itself: a TargetCluster of the same name, which is
// in no API server. The plugin is the one that the provider file selects, it runs where that says, and the Pod is given what it prints.
//
// Its errors are an *InvalidError, or wrap providers.ErrNotFound or providers.ErrUnavailable.
func (i *Issuer) ClusterProfile(ctx context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error) {
	profile, err := i.profile(ctx, name)
	if err != nil {
		return nil, profileError(name, err)
	}
	plugin, err := i.providerFile().Select(profile.ClusterProfile)
	if err != nil {
		return nil, invalidProfile(err)
	}
	return &v1alpha1.TargetCluster{
		TypeMeta:   metav1.TypeMeta{APIVersion: inventory.GroupVersion.String(), Kind: inventory.ClusterProfileKind},
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, UID: profile.UID},
		Spec: v1alpha1.TargetClusterSpec{
			ClusterProfile: &v1alpha1.ObjectReference{Namespace: name.Namespace, Name: name.Name},
			Access:         v1alpha1.Access{Type: v1alpha1.AccessExec, Exec: &v1alpha1.ExecAccess{Provider: plugin.Name, RunIn: plugin.RunIn}},
			Issue:          v1alpha1.Issue{Type: v1alpha1.IssueAccess},
		},
	}, nil
}

// described is what issuing is from, for messages.
func described(cluster *v1alpha1.TargetCluster) string {
	kind := "TargetCluster"
	if isProfile(cluster) {
		kind = inventory.ClusterProfileKind
	}
	return kind + " " + cluster.Namespace + "/" + cluster.Name
}

// isProfile reports whether a TargetCluster stands for a ClusterProfile.
func isProfile(cluster *v1alpha1.TargetCluster) bool {
	return cluster.Kind == inventory.ClusterProfileKind
}

// fleet is what a TargetCluster's clusterProfile and a plugin come from; zero where it has neither.
type fleet struct {
	file    *clusterprofile.ProviderFile
	profile *inventory.ClusterProfile
	// version is another one whenever the profile says something else that matters here.
	version string
}

// usedFleet reads what the TargetCluster needs of it.
func (i *Issuer) usedFleet(ctx context.Context, cluster *v1alpha1.TargetCluster) (fleet, error) {
	used := fleet{}
	if cluster.Spec.ClusterProfile != nil || cluster.Spec.Access.Type == v1alpha1.AccessExec {
		used.file = i.providerFile()
	}
	if ref := cluster.Spec.ClusterProfile; ref != nil {
		name := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
		read, err := i.profile(ctx, name)
		if err != nil {
			return used, profileError(name, err)
		}
		used.profile, used.version = read.ClusterProfile, read.version
	}
	return used, nil
}

func (i *Issuer) providerFile() *clusterprofile.ProviderFile {
	if i.cfg.Providers == nil {
		return nil
	}
	return i.cfg.Providers()
}

// endpoint returns what the TargetCluster itself says of where the target is, and from where that is: its spec, or its ClusterProfile. A
// profile says it for each of its access providers: with a plugin, that of the plugin counts.
func (f fleet) endpoint(cluster *v1alpha1.TargetCluster) (endpoint providers.Endpoint, from string, err error) {
	if f.profile == nil {
		return specEndpoint(cluster), "", nil
	}
	var at clusterprofile.Cluster
	if cluster.Spec.Access.Type == v1alpha1.AccessExec {
		plugin, err := f.plugin(cluster)
		if err != nil {
			return providers.Endpoint{}, "", err
		}
		at = plugin.Cluster
	} else if at, err = f.file.Cluster(f.profile); err != nil {
		return providers.Endpoint{}, "", invalidProfile(err)
	}
	return providers.Endpoint{
		Server:               at.Server,
		CertificateAuthority: at.CertificateAuthorityData,
		TLSServerName:        at.TLSServerName,
		ProxyURL:             at.ProxyURL,
	}, "ClusterProfile " + f.profile.Namespace + "/" + f.profile.Name, nil
}

// checkAuthority says of a ClusterProfile what is to be mended there, and not in the spec.
func (f fleet) checkAuthority(endpoint providers.Endpoint) error {
	if f.profile == nil || len(endpoint.CertificateAuthority) > 0 {
		return nil
	}
	return &InvalidError{Reason: ReasonNoCertificateAuthority, Message: fmt.Sprintf(
		"ClusterProfile %s/%s has no certificate-authority-data, by which Pods verify the endpoint: its cluster manager has to set it", f.profile.Namespace, f.profile.Name)}
}

// profile is a ClusterProfile as read. It is not to be changed.
type profile struct {
	*inventory.ClusterProfile
	// version tells what it says of access, and of nothing else: cluster managers write how a cluster fares every few seconds, which is
	// no reason to issue anew.
	version string
}

// profile reads a ClusterProfile, or returns what was read shortly before.
func (i *Issuer) profile(ctx context.Context, name types.NamespacedName) (profile, error) {
	return i.profiles.get(ctx, name, func(ctx context.Context, _ answer[profile]) answer[profile] {
		ctx, cancel := context.WithTimeout(ctx, secretTimeout)
		defer cancel()
		read := &inventory.ClusterProfile{}
		if err := i.cfg.Secrets.Get(ctx, name, read); err != nil {
			return answer[profile]{err: err}
		}
		says, err := json.Marshal([]any{read.UID, read.Status.AccessProviders, read.Status.CredentialProviders})
		if err != nil {
			return answer[profile]{err: err}
		}
		digest := sha256.Sum256(says)
		until := i.cfg.Now().Add(secretAge)
		return answer[profile]{value: profile{read, hex.EncodeToString(digest[:])}, until: until, expires: until}
	})
}

func profileError(name types.NamespacedName, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return &InvalidError{Reason: ReasonClusterProfileNotFound, Message: fmt.Sprintf(
			"ClusterProfile %s does not exist: its cluster manager has to create it, or the name is wrong", name)}
	case meta.IsNoMatchError(err), runtime.IsNotRegisteredError(err):
		return &InvalidError{Reason: ReasonClusterProfileNotFound, Message: fmt.Sprintf(
			"ClusterProfile %s cannot exist: this cluster has no CustomResourceDefinition clusterprofiles.%s: install it", name, inventory.Group)}
	case apierrors.IsForbidden(err):
		return &InvalidError{Reason: ReasonClusterProfileNotFound, Message: fmt.Sprintf(
			"ClusterProfile %s may not be read: grant Keyferry the verb get on clusterprofiles.%s, as its chart does", name, inventory.Group)}
	case errors.Is(err, providers.ErrUnavailable): // it is the waiting that failed
		return fmt.Errorf("reading ClusterProfile %s: %w", name, err)
	}
	return providers.Unavailable(0, fmt.Errorf("reading ClusterProfile %s: %w", name, err))
}

func invalidProfile(err error) error {
	return &InvalidError{Reason: ReasonInvalidClusterProfile, Message: err.Error()}
}
