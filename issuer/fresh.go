package issuer

import (
	"cmp"
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// Fresh returns a new credential of a TargetCluster that came to resolution, for one who keeps it:
// nobody else is given it, so its whole life is before it, and nothing of it is kept here. A
// provider that fails is asked again the next time; the caller limits how often.
//
// Its errors are those of Issue.
func (i *Issuer) Fresh(ctx context.Context, cluster *v1alpha1.TargetCluster, resolution Resolution, req providers.Request) (Issued, error) {
	if resolution.Issue == nil || resolution.InPod != nil {
		return Issued{}, &resolve.InvalidError{Reason: resolve.ReasonNotSupported, Message: fmt.Sprintf(
			"TargetCluster %s/%s issues a separate credential in each Pod: use it in Pods, with the annotation keyferry.dev/cluster",
			cluster.Namespace, cluster.Name)}
	}
	fresh := i.ask(ctx, cluster, resolution, req, answer[Issued]{})
	if fresh.err != nil {
		return Issued{}, fmt.Errorf("TargetCluster %s/%s: %w", cluster.Namespace, cluster.Name, fresh.err)
	}
	issued := fresh.value
	issued.Namespace = cmp.Or(cluster.Spec.DefaultNamespace, metav1.NamespaceDefault)
	return issued, nil
}

// SecretVersion is another one whenever a Secret that the TargetCluster names has changed.
func (r Resolution) SecretVersion() string { return r.key.secrets }
