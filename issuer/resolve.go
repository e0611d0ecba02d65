package issuer

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

const (
	// How late a change of a Secret may be noticed. It keeps thousands of polling Pods from reading it
	// as often.
	secretAge     = 5 * time.Second
	secretTimeout = 5 * time.Second

	// How long a resolution of the same TargetCluster and Secret is kept.
	resolutionAge = time.Hour
)

// Resolution is what a TargetCluster and its Secrets come to, as they were read.
type Resolution struct {
	resolve.Resolution

	key resolutionKey
	// issued is key without what issued credentials do not depend on.
	issued resolutionKey
}

// resolutionKey is all that a Resolution depends on.
type resolutionKey struct {
	name       types.NamespacedName
	uid        types.UID
	generation int64
	// secrets are the resourceVersions of those that the spec names. In the key of issued credentials
	// it is a digest of the endpoint, if nothing else that is issued comes from the Secret.
	secrets string
	// profile is the version of the ClusterProfile that the spec names.
	profile string
	// file is the provider file, if it has to do with it.
	file *clusterprofile.ProviderFile
}

// Resolve returns what a TargetCluster and its Secrets come to. It reads Secrets and
// ClusterProfiles, at most some seconds late, and does not contact the target. Its errors are an
// *resolve.InvalidError, next to which the Resolution is filled as far as it is known, or wrap
// providers.ErrUnavailable.
func (i *Issuer) Resolve(ctx context.Context, cluster *v1alpha1.TargetCluster) (Resolution, error) {
	if err := resolve.Check(cluster.Spec); err != nil {
		return Resolution{}, err
	}
	if err := i.checkCertManager(ctx, cluster); err != nil {
		return Resolution{}, err
	}
	used, err := i.usedSecret(ctx, cluster)
	if err != nil {
		return Resolution{}, err
	}
	fleet, version, err := i.usedFleet(ctx, cluster)
	if err != nil {
		return Resolution{}, err
	}
	key := resolutionKey{
		name:       types.NamespacedName{Namespace: cluster.Namespace, Name: cluster.Name},
		uid:        cluster.UID,
		generation: cluster.Generation,
		secrets:    used.uid + "/" + used.resourceVersion,
		profile:    version,
		file:       fleet.File,
	}
	// Kept for the connections that its providers hold.
	return i.resolutions.get(ctx, key, func(context.Context, answer[Resolution]) answer[Resolution] {
		keep := func(provider providers.Provider) providers.Provider {
			return keptAccess{i, key, cluster.Spec, provider}
		}
		resolution, err := i.resolver.Resolve(cluster, resolve.Given{Secret: used.Secret, Fleet: fleet, Keep: keep})
		if i.cfg.Decorate != nil && resolution.Issue != nil {
			resolution.Issue = i.cfg.Decorate(resolution.Issue)
		}
		end := i.cfg.Now().Add(resolutionAge)
		return answer[Resolution]{value: Resolution{resolution, key, issuedKey(cluster, key, resolution)}, err: err, until: end, expires: end}
	})
}

// issuedKey returns what the issued credentials of a Resolution depend on. A token of TokenRequest
// and a client certificate stay what they are if the access credential is replaced, as Cluster
// API's provider for AWS does every ten minutes: of the Secret, they depend on the endpoint only.
func issuedKey(cluster *v1alpha1.TargetCluster, key resolutionKey, resolution resolve.Resolution) resolutionKey {
	if cluster.Spec.Issue.Type != v1alpha1.IssueAccess {
		key.secrets = resolution.Endpoint.Digest()
	}
	return key
}

// secret is what is kept of a Secret.
type secret struct {
	resolve.Secret

	uid             string
	resourceVersion string
}

// usedSecret returns the Secret that spec.access names; the zero value if it names none.
func (i *Issuer) usedSecret(ctx context.Context, cluster *v1alpha1.TargetCluster) (secret, error) {
	name, field := resolve.AccessSecret(cluster.Spec.Access)
	if name == "" {
		return secret{}, i.checkListed(ctx, cluster)
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
			Secret:          resolve.Secret{Name: name, Type: read.Type, Labels: read.Labels, Data: read.Data},
			uid:             string(read.UID),
			resourceVersion: read.ResourceVersion,
		}}
	})
}

func secretError(name types.NamespacedName, field string, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return &resolve.InvalidError{Reason: resolve.ReasonSecretNotFound, Message: fmt.Sprintf(
			"Secret %s, to which %s refers, does not exist: create the Secret", name, field)}
	case apierrors.IsForbidden(err):
		return &resolve.InvalidError{Reason: resolve.ReasonSecretForbidden, Message: fmt.Sprintf(
			"Keyferry may not read Secret %s: select namespace %s with the chart value secretAccess.namespaces or secretAccess.namespaceLabels. If it is Keyferry's own namespace, move the TargetCluster and the Secret to another namespace", name, name.Namespace)}
	case errors.Is(err, providers.ErrUnavailable): // it is the waiting that failed
		return fmt.Errorf("reading Secret %s: %w", name, err)
	}
	return providers.Unavailable(0, fmt.Errorf("reading Secret %s: %w", name, err))
}
