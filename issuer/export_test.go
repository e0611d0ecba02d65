package issuer

import (
	"context"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/providers"
)

// Issue is what the broker does for a TargetCluster that names no ClusterProfile.
func (i *Issuer) Issue(ctx context.Context, name types.NamespacedName, req providers.Request) (Issued, error) {
	cluster, err := i.TargetCluster(ctx, name)
	if err != nil {
		return Issued{}, err
	}
	return i.IssueFor(ctx, cluster, req)
}
