package check

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector"
)

// published looks for what a federated Pod knows its target by. That the kubelet gives it a token,
// and the target takes that, only the Pod can see.
func (x *examination) published(ctx context.Context, pod *corev1.Pod, cluster types.NamespacedName) {
	const check = "published"
	if pod.Labels[injector.LabelFederated] != "true" {
		x.report.wrong(check, "kubectl label pod "+pod.Name+" -n "+pod.Namespace+" "+injector.LabelFederated+"=true",
			"the Pod has lost its label %s, by which the controller finds it", injector.LabelFederated)
		return
	}
	configMap := &corev1.ConfigMap{}
	name := types.NamespacedName{Namespace: pod.Namespace, Name: injector.FederationConfigMap}
	if err := x.client.Get(ctx, name, configMap); err != nil && !apierrors.IsNotFound(err) {
		x.report.unknown(check, "", "cannot read ConfigMap %s: %v", name, err)
		return
	}
	keys := injector.FederationKeysOf(cluster)
	var missing []string
	for _, key := range []string{keys.CertificateAuthority, keys.Namespace, keys.Host, keys.Port} {
		if _, ok := configMap.Data[key]; !ok {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		x.report.wrong(check, "look at the Events of the ConfigMap (kubectl events -n "+pod.Namespace+" --for configmap/"+name.Name+") and at the logs of Deployment keyferry-controller",
			"ConfigMap %s does not have %s", name, strings.Join(missing, ", "))
		return
	}
	x.report.fine(check, "ConfigMap %s has the target; if that answers 401, look at its AuthenticationConfiguration", name)
}
