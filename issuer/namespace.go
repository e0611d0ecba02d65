package issuer

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

const (
	// namespaceAge is how late Keyferry may notice that a namespace is no longer listed.
	namespaceAge = time.Minute
	// probedSecret is read to find out whether Secrets may be read. It need not exist.
	probedSecret = "keyferry-namespace-is-listed"
)

// checkListed returns an *resolve.InvalidError for a TargetCluster that names no Secret, in a
// namespace that the operator has not listed: it would have this program connect to addresses that
// its author chooses. A TargetCluster that names a Secret resolves only where that may be read.
func (i *Issuer) checkListed(ctx context.Context, cluster *v1alpha1.TargetCluster) error {
	if resolve.OfProfile(cluster) || slices.Contains(i.cfg.Policy.AmbientNamespaces, cluster.Namespace) {
		return nil
	}
	_, err := i.listed.get(ctx, cluster.Namespace, func(ctx context.Context, last answer[struct{}]) answer[struct{}] {
		ctx, cancel := context.WithTimeout(ctx, secretTimeout)
		defer cancel()
		err := i.cfg.Secrets.Get(ctx, types.NamespacedName{Namespace: cluster.Namespace, Name: probedSecret}, &corev1.Secret{})
		now := i.cfg.Now()
		result := answer[struct{}]{until: now.Add(namespaceAge), expires: now.Add(resolutionAge)}
		switch {
		case err == nil || apierrors.IsNotFound(err):
			return result
		case apierrors.IsForbidden(err):
			result.until = now.Add(secretAge)
			result.err = &resolve.InvalidError{Reason: resolve.ReasonNamespaceNotListed, Message: fmt.Sprintf(
				"namespace %s is not listed, so Keyferry does not connect to its targets: add %s to the chart value secretAccess.namespaces, or give it the labels of secretAccess.namespaceLabels",
				cluster.Namespace, cluster.Namespace)}
			return result
		}
		result.until = now.Add(secretAge)
		if last.until.IsZero() || last.err != nil {
			result.err = providers.Unavailable(0, fmt.Errorf("checking whether Keyferry may read Secrets of namespace %s: %w", cluster.Namespace, err))
		}
		return result
	})
	return err
}
