package check

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/injector"
)

func TestFederated(t *testing.T) {
	keys := []string{"_tenant-1.ca.crt", "_tenant-1.namespace", "_tenant-1.host", "_tenant-1.port"}
	for name, test := range map[string]struct {
		labels map[string]string
		keys   []string
		want   Verdict
		texts  []string
	}{
		"fine":           {map[string]string{injector.LabelFederated: "true"}, keys, Fine, []string{injector.FederationConfigMap}},
		"label is gone":  {nil, keys, Wrong, []string{"kubectl label pod"}},
		"no ConfigMap":   {map[string]string{injector.LabelFederated: "true"}, nil, Wrong, []string{"_tenant-1.host", "kubectl events"}},
		"not the target": {map[string]string{injector.LabelFederated: "true"}, keys[:1], Wrong, []string{"_tenant-1.host"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.inject(map[string]string{injector.AnnotationCluster: "tenant-1"}, injector.Target{Federation: injector.Federation{Audience: "tenant-1.example.com"}})
			w.pod.Labels = test.labels
			if test.keys != nil {
				cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.pod.Namespace, Name: injector.FederationConfigMap}, Data: map[string]string{}}
				for _, key := range test.keys {
					cm.Data[w.pod.Namespace+key] = "x"
				}
				w.create(cm)
			}
			w.create(w.pod)
			r := Pod(t.Context(), w.client, w.exec, client.ObjectKeyFromObject(w.pod))
			w.want(r, test.want, "published", test.want, test.texts...)
		})
	}
}
