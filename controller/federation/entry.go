package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer"
)

// entry returns what is published of one target in a namespace, of which have is what was. If the
// target does not resolve now, or none of its Pods may use it, which is errForbidden, that stays:
// Pods keep what they have.
func (c *ConfigMaps) entry(ctx context.Context, namespace string, target types.NamespacedName, have map[string]string) (map[string]string, error) {
	var (
		keys    = injector.FederationKeysOf(target)
		last    = pick(have, keys)
		cluster v1alpha1.TargetCluster
	)
	if err := c.cfg.Client.Get(ctx, target, &cluster); err != nil || !mayPublish(&cluster, len(last) > 0) {
		return last, nil
	}
	resolution, err := c.cfg.Resolver.Resolve(ctx, &cluster)
	if err != nil {
		ctrl.LoggerFrom(ctx).Info("target not published", "targetCluster", target.String(), "error", err.Error())
		return last, nil
	}
	next := entry(&cluster, resolution, keys)
	if maps.Equal(next, last) {
		return last, nil
	}
	if err := c.authorize(ctx, namespace, &cluster); err != nil {
		return last, err
	}
	return next, nil
}

// errForbidden reports that no Pod of a namespace may use a target.
var errForbidden = errors.New("no Pod of the namespace may use the target")

// authorize returns errForbidden unless one of the Pods in a namespace that have a target runs as a
// ServiceAccount that may use it. The webhook has checked that for Pods that it injected. Labels
// and annotations can be written by users; the ServiceAccount of a Pod is fixed.
func (c *ConfigMaps) authorize(ctx context.Context, namespace string, cluster *v1alpha1.TargetCluster) error {
	name := client.ObjectKeyFromObject(cluster)
	var pods corev1.PodList
	err := c.cfg.Reader.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{injector.LabelFederated: "true"})
	if err != nil {
		return fmt.Errorf("listing the federated Pods of namespace %s: %w", namespace, err)
	}
	accounts := sets.New[string]()
	for i := range pods.Items {
		if target, ok := targetOf(&pods.Items[i]); ok && target == name {
			accounts.Insert(pods.Items[i].Spec.ServiceAccountName)
		}
	}
	for account := range accounts {
		if may, err := c.mayUse(ctx, types.NamespacedName{Namespace: namespace, Name: account}, cluster); err != nil || may {
			return err
		}
	}
	ctrl.LoggerFrom(ctx).Info("target not published", "targetCluster", name.String(),
		"error", fmt.Sprintf("no ServiceAccount of the namespace's Pods may use the target: %v", sets.List(accounts)))
	return errForbidden
}

func (c *ConfigMaps) mayUse(ctx context.Context, account types.NamespacedName, cluster *v1alpha1.TargetCluster) (bool, error) {
	for _, object := range use.Of(cluster) {
		if may, err := use.Allowed(ctx, c.cfg.Client, account, "", object); err != nil || !may {
			return false, err
		}
	}
	return true, nil
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

// mayPublish reports whether what a TargetCluster says now may go to Pods. That somebody else
// answers at the new address, or that the new authority does not speak for it, is mostly a typo,
// and would end what works.
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
