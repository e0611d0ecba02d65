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
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// ClusterProfile returns what Issue issues from for a ClusterProfile that is used by itself: a
// TargetCluster of the same name, which is in no API server. The plugin is the one that the
// provider file selects, it runs where that says, and the Pod is given what it prints.
//
// Its errors are an *resolve.InvalidError, or wrap providers.ErrNotFound or
// providers.ErrUnavailable.
func (i *Issuer) ClusterProfile(ctx context.Context, name types.NamespacedName) (*v1alpha1.TargetCluster, error) {
	profile, err := i.profile(ctx, name)
	if err != nil {
		return nil, profileError(name, err)
	}
	plugin, err := i.providerFile().Select(profile.ClusterProfile)
	if err != nil {
		return nil, &resolve.InvalidError{Reason: resolve.ReasonInvalidClusterProfile, Message: err.Error()}
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
	if resolve.OfProfile(cluster) {
		kind = inventory.ClusterProfileKind
	}
	return kind + " " + cluster.Namespace + "/" + cluster.Name
}

// usedFleet reads what the TargetCluster needs of it. The version is another one whenever the
// profile says something else that matters here.
func (i *Issuer) usedFleet(ctx context.Context, cluster *v1alpha1.TargetCluster) (used resolve.Fleet, version string, err error) {
	if cluster.Spec.ClusterProfile != nil || cluster.Spec.Access.Type == v1alpha1.AccessExec {
		used.File = i.providerFile()
	}
	if ref := cluster.Spec.ClusterProfile; ref != nil {
		name := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
		read, err := i.profile(ctx, name)
		if err != nil {
			return used, "", profileError(name, err)
		}
		used.Profile, version = read.ClusterProfile, read.version
	}
	return used, version, nil
}

func (i *Issuer) providerFile() *clusterprofile.ProviderFile {
	if i.cfg.Providers == nil {
		return nil
	}
	return i.cfg.Providers()
}

// profile is a ClusterProfile as read. It is not to be changed.
type profile struct {
	*inventory.ClusterProfile
	// version tells what it says of access, and of nothing else: cluster managers write how a cluster
	// fares every few seconds, which is no reason to issue again.
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
		return &resolve.InvalidError{Reason: resolve.ReasonClusterProfileNotFound, Message: fmt.Sprintf(
			"ClusterProfile %s does not exist: correct the name, or let the cluster manager create it", name)}
	case meta.IsNoMatchError(err), runtime.IsNotRegisteredError(err):
		return &resolve.InvalidError{Reason: resolve.ReasonClusterProfileNotFound, Message: fmt.Sprintf(
			"ClusterProfile %s cannot exist: this cluster has no CustomResourceDefinition clusterprofiles.%s: install it", name, inventory.Group)}
	case apierrors.IsForbidden(err):
		return &resolve.InvalidError{Reason: resolve.ReasonClusterProfileNotFound, Message: fmt.Sprintf(
			"ClusterProfile %s may not be read: grant Keyferry the verb get on clusterprofiles.%s, as its chart does", name, inventory.Group)}
	case errors.Is(err, providers.ErrUnavailable): // it is the waiting that failed
		return fmt.Errorf("reading ClusterProfile %s: %w", name, err)
	}
	return providers.Unavailable(0, fmt.Errorf("reading ClusterProfile %s: %w", name, err))
}
