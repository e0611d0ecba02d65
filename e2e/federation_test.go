package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/cluster"
)

// clientGoCA is how long client-go goes on with the authority that it has read
// (transport.caRefreshDuration).
const clientGoCA = 5 * time.Minute

// TestFederation: a Pod without a sidecar works on a target that accepts tokens of this cluster.
// When the target moves and its authority is replaced, old and new overlapping, what runs carries
// on, also on new connections, and what is started in the same Pod finds the new ones.
func TestFederation(t *testing.T) {
	if !suite.pair.Federated {
		t.Skip("the target does not accept tokens of the management cluster")
	}
	t.Parallel()
	ns := suite.management.namespace(t, nil)
	tn := federatedTenant(t, ns)
	tn.allow(t, ns, "default")
	host, authority := forward(t, ns)
	address := "https://" + host + ":8443"
	tn.applyFederated(t, address, authority)
	cleanUp(t, suite.management, tn.object())
	tn.waitFor(t, "Ready", "True")

	suite.management.mustApply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: {{.NS}}}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata:
      labels: {app: client}
      annotations: {keyferry.dev/cluster: fleet/{{.Target}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: client, image: {{.Image}}}
      - {name: again, image: {{.Image}}, args: [--for=5s]} # ends, and is started again
`, map[string]any{"NS": ns, "Target": tn.Target, "Image": suite.clientImage})
	pod := federatedPod(t, ns)
	before := tn.works(t, ns, pod.Name, "client")
	tn.works(t, ns, pod.Name, "again")
	t.Logf("the Pod was ready %s after its creation", readyAfter(pod))
	t.Logf("keyferry check:\n%s", suite.keyferry(t, 0, "check", pod.Name, "-n", ns))

	// The bundle holds the old authority, the next one, and that of the other address.
	old, err := base64.StdEncoding.DecodeString(authority)
	if err != nil {
		t.Fatal(err)
	}
	next := selfMade(t, host)
	tn.applyFederated(t, suite.targetServer, base64.StdEncoding.EncodeToString(slices.Concat(old, next.authority, suite.targetCA)))
	tn.waitFor(t, "Reachable", "True")
	eventually(t, 6*time.Minute, "a container that starts anew works at the new address", func() error {
		all, err := reports(t.Context(), ns, pod.Name, "again")
		if err != nil {
			return err
		}
		last := all[len(all)-1]
		if last.Host != suite.targetServer || last.User != tn.User || last.Failures != 0 {
			return fmt.Errorf("it is %q at %s, with %d failures (last error: %s)", last.User, last.Host, last.Failures, last.LastError)
		}
		return nil
	})

	// The Pod has the bundle. When client-go has read it, too, the old address goes over to the next
	// authority, and ends the old connections.
	delivered := time.Now()
	eventually(t, clientGoCA+time.Minute, "client-go reads the bundle again", func() error {
		if left := time.Until(delivered.Add(clientGoCA + 15*time.Second)); left > 0 {
			return fmt.Errorf("that takes %s more", left)
		}
		return nil
	})
	next.forward(t, ns, "forward-next")
	replaceForwarder(t, ns, "forward", "forward-next")
	switched := tn.works(t, ns, pod.Name, "client")
	eventually(t, time.Minute, "the container that went on makes requests", func() error {
		if now := tn.works(t, ns, pod.Name, "client"); now.Requests < switched.Requests+20 {
			return fmt.Errorf("%d more requests", now.Requests-switched.Requests)
		}
		return nil
	})
	last := tn.works(t, ns, pod.Name, "client")
	if last.Failures != 0 || last.Requests < before.Requests {
		t.Errorf("the container that went on had %d failures in %d requests (last error: %s)", last.Failures, last.Requests, last.LastError)
	}
	t.Logf("%d requests over all that", last.Requests)
	if now := federatedPod(t, ns); now.UID != pod.UID {
		t.Error("it is another Pod")
	}

	if err := suite.management.Delete(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "client"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the ConfigMap goes with the last Pod", func() error {
		err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "keyferry-federation"}, &corev1.ConfigMap{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	})
}

// TestFederationNameTaken: somebody else has made the ConfigMap that federated Pods need. One Event
// says so, with a count, and the Pods start when it is gone.
func TestFederationNameTaken(t *testing.T) {
	if !suite.pair.Federated {
		t.Skip("the target does not accept tokens of the management cluster")
	}
	t.Parallel()
	ns := suite.management.namespace(t, nil)
	tn := federatedTenant(t, ns)
	tn.allow(t, ns, "default")
	tn.applyFederated(t, suite.targetServer, base64.StdEncoding.EncodeToString(suite.targetCA))
	cleanUp(t, suite.management, tn.object())
	tn.waitFor(t, "Ready", "True")
	taken := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "keyferry-federation"}}
	if err := suite.management.Create(t.Context(), taken); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata: {name: {{.Name}}, namespace: {{.NS}}, annotations: {keyferry.dev/cluster: fleet/{{.Target}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: client, image: {{.Image}}}
`, map[string]any{"Name": name, "NS": ns, "Target": tn.Target, "Image": suite.clientImage})
	}
	eventually(t, time.Minute, "one Event says that the name is taken", func() error {
		list, err := suite.management.clientset.EventsV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=NameTaken"})
		if err != nil {
			return err
		}
		if n := len(list.Items); n != 1 || list.Items[0].Series == nil {
			return fmt.Errorf("there are %d, without a count", n)
		}
		return nil
	})
	if err := suite.management.Delete(t.Context(), taken); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		tn.works(t, ns, name, "client")
	}
}

// replaceForwarder takes a Pod from behind its Service when another one is there, and then ends it.
func replaceForwarder(t *testing.T, namespace, name, by string) {
	t.Helper()
	behind := func() ([]string, error) {
		var list discoveryv1.EndpointSliceList
		err := suite.management.List(t.Context(), &list, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: "forward"})
		var names []string
		for _, slice := range list.Items {
			for _, e := range slice.Endpoints {
				if ptr.Deref(e.Conditions.Ready, false) {
					names = append(names, e.TargetRef.Name)
				}
			}
		}
		return names, err
	}
	waitFor := func(name string, wanted bool) {
		eventually(t, time.Minute, fmt.Sprintf("Pod %s behind the Service: %t", name, wanted), func() error {
			names, err := behind()
			if err == nil && slices.Contains(names, name) != wanted {
				err = fmt.Errorf("there are %v", names)
			}
			return err
		})
	}
	waitFor(by, true)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	if err := suite.management.Patch(t.Context(), pod, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"replaced"}}}`))); err != nil {
		t.Fatal(err)
	}
	waitFor(name, false)
	if err := suite.management.Delete(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the old forwarder is gone", func() error {
		err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	})
}

// federatedTenant is a ServiceAccount of the management cluster that may look at the target's
// namespaces.
func federatedTenant(t *testing.T, namespace string) tenant {
	t.Helper()
	ns := suite.target.namespace(t, nil)
	tn := tenant{Namespace: ns, User: cluster.FederationPrefix + "system:serviceaccount:" + namespace + ":default", Target: ns, Server: suite.targetServer}
	role, binding := "e2e-federated-"+ns, "e2e-federated-"+ns
	suite.target.mustApply(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: {{.Role}}}
rules:
- {apiGroups: [""], resources: [namespaces], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: {{.Binding}}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{.Role}}}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: '{{.User}}'}]
`, map[string]any{"Role": role, "Binding": binding, "User": tn.User})
	for kind, name := range map[string]string{"ClusterRole": role, "ClusterRoleBinding": binding} {
		object := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: kind}, ObjectMeta: metav1.ObjectMeta{Name: name}}
		cleanUp(t, suite.target, object)
	}
	return tn
}

// applyFederated writes the TargetCluster, with an authority in base64.
func (tn tenant) applyFederated(t *testing.T, server, authority string) {
	t.Helper()
	suite.management.mustApply(t, `
apiVersion: keyferry.dev/v1alpha1
kind: TargetCluster
metadata: {name: {{.Target}}, namespace: fleet}
spec:
  endpoint: {server: '{{.Server}}', certificateAuthorityData: {{.Authority}}}
  access: {type: None}
  issue: {type: Federation, federation: {audience: {{.Audience}}}}
`, map[string]any{"Target": tn.Target, "Server": server, "Authority": authority, "Audience": cluster.FederationAudience})
}

// federatedPod is the one Pod of the Deployment client, which has nothing of a sidecar.
func federatedPod(t *testing.T, namespace string) *corev1.Pod {
	t.Helper()
	pod := runningPod(t, namespace)
	if len(pod.Spec.InitContainers) > 0 || !strings.Contains(pod.Annotations["keyferry.dev/status"], `"delivery":"Federation"`) {
		t.Errorf("the Pod has %d init containers, and the status annotation %s", len(pod.Spec.InitContainers), pod.Annotations["keyferry.dev/status"])
	}
	return pod
}

// readyAfter is how long the Pod took until its first container was started.
func readyAfter(pod *corev1.Pod) time.Duration {
	for _, c := range pod.Status.ContainerStatuses {
		if c.Name == "client" && c.State.Running != nil {
			return c.State.Running.StartedAt.Sub(pod.CreationTimestamp.Time)
		}
	}
	return 0
}
