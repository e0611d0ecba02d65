package federation

import (
	"cmp"
	"context"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/issuer"
)

// entry returns what is published of one target, of which have is what was. That stays where the target makes no sense now: its Pods go on
// with what they have.
func (c *ConfigMaps) entry(ctx context.Context, target types.NamespacedName, have map[string]string) map[string]string {
	var (
		keys    = injector.FederationKeysOf(target)
		last    = pick(have, keys)
		cluster v1alpha1.TargetCluster
	)
	if err := c.cfg.Client.Get(ctx, target, &cluster); err != nil || !mayPublish(&cluster, len(last) > 0) {
		return last
	}
	resolution, err := c.cfg.Resolver.Resolve(ctx, &cluster)
	if err != nil {
		ctrl.LoggerFrom(ctx).Info("target not published", "targetCluster", target.String(), "error", err.Error())
		return last
	}
	return entry(&cluster, resolution, keys)
}

func entry(cluster *v1alpha1.TargetCluster, resolution issuer.Resolution, keys injector.FederationKeys) map[string]string {
	server, err := url.Parse(resolution.Endpoint.Server)
	if err != nil {
		return nil // the issuer has made it
	}
	return map[string]string{
		keys.CertificateAuthority: string(resolution.Endpoint.CertificateAuthority),
		keys.Namespace:            cmp.Or(cluster.Spec.DefaultNamespace, metav1.NamespaceDefault),
		keys.Host:                 server.Hostname(),
		keys.Port:                 server.Port(),
	}
}

// pick returns what one target has there.
func pick(data map[string]string, keys injector.FederationKeys) map[string]string {
	picked := map[string]string{}
	for _, key := range []string{keys.CertificateAuthority, keys.Namespace, keys.Host, keys.Port} {
		if value, ok := data[key]; ok {
			picked[key] = value
		}
	}
	return picked
}

// mayPublish tells whether what a TargetCluster says now may go to Pods. That somebody else answers at the new address, or that the new
// authority does not speak for it, is mostly a typo, and would end what works.
func mayPublish(cluster *v1alpha1.TargetCluster, works bool) bool {
	conditions := cluster.Status.Conditions
	if cluster.Spec.Issue.Type != v1alpha1.IssueFederation || cluster.Status.ObservedGeneration != cluster.Generation ||
		!meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionResolved) {
		return false
	}
	reachable := meta.FindStatusCondition(conditions, v1alpha1.ConditionReachable)
	return !works || reachable == nil || reachable.Reason != controller.ReasonTLSFailed
}

// parseName reads what types.NamespacedName.String writes.
func parseName(text string) (types.NamespacedName, bool) {
	namespace, name, ok := strings.Cut(text, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}, ok && namespace != "" && name != ""
}
