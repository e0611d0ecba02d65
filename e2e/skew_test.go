//go:build long

package e2e

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/release"
)

// TestSkew: the cluster pulls this release and the previous one from a registry, to which they were
// published as for users. Pods of the previous release are served by this one's broker, and Pods of
// this release by the previous one's, while Keyferry is rolled back, upgraded, rolled back and
// upgraded again. No request fails, each Pod renews under each release, and so does a
// CredentialRequest.
func TestSkew(t *testing.T) {
	revision := os.Getenv("KEYFERRY_PREVIOUS")
	if revision == "" {
		t.Fatal("KEYFERRY_PREVIOUS names no revision: make e2e-skew does")
	}
	registry, err := release.ServeRegistry(t.Context(), os.Stderr, suite.pair.Management)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	root, previous, err := release.Extract(t.Context(), revision)
	if err != nil {
		t.Fatal(err)
	}
	// A node keeps the images that it has pulled: a version of its own for each run.
	this := "v0.0.0-this-" + time.Now().UTC().Format("20060102-150405")
	versions := map[string]string{"previous": previous, "this": this}
	for name, root := range map[string]string{"previous": root, "this": release.Root()} {
		if err := registry.Publish(t.Context(), os.Stderr, root, versions[name], arch(t)); err != nil {
			t.Fatal(err)
		}
	}
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.allow(t, requests, tn.Target)
	secret := tn.request(t, "kubeconfig")

	var pods []skewedPod
	for step, name := range []string{"this", "previous", "this", "previous", "this"} {
		installRelease(t, registry, versions[name])
		for _, p := range pods {
			renewed(t, p.Pod, 2)
		}
		replacedBy(t, secret)
		for _, delivery := range []string{"direct", "proxy"} {
			p := tn.runSkewed(t, ns, fmt.Sprintf("%s-%d-%s", name, step, delivery), delivery)
			if got, want := p.Spec.InitContainers[0].Image, "ghcr.io/keyferry/refresher:"+versions[name]; got != want {
				t.Errorf("the sidecar of Pod %s is %s, want %s", p.Name, got, want)
			}
			pods = append(pods, p)
		}
		t.Logf("step %d: the release is %s one, and %d Pods work", step, name, len(pods))
	}
	for _, p := range pods {
		renewed(t, p.Pod, 2)
		if n, err := failuresSince(t.Context(), ns, p.Name, p.first); err != nil || n != 0 {
			t.Errorf("Pod %s: %d requests failed (%v)", p.Name, n, err)
		}
		inTime(t, p.Pod)
		notRestarted(t, p.Pod)
	}
}

// installRelease installs a published release over the installed one.
func installRelease(t *testing.T, registry *release.Registry, version string) {
	t.Helper()
	defer suite.witness.changed(time.Now())
	if err := registry.Install(t.Context(), os.Stderr, suite.pair.Management, version, suite.values()); err != nil {
		t.Fatal(err)
	}
}

// arch is the architecture of the nodes.
func arch(t *testing.T) string {
	t.Helper()
	nodes := &corev1.NodeList{}
	if err := suite.management.List(t.Context(), nodes); err != nil {
		t.Fatal(err)
	}
	return nodes.Items[0].Status.NodeInfo.Architecture
}

// skewedPod is a Pod and what its client said first.
type skewedPod struct {
	*corev1.Pod
	first report
}

func (tn tenant) runSkewed(t *testing.T, namespace, name, delivery string) skewedPod {
	t.Helper()
	suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata: {name: {{.Name}}, namespace: {{.NS}}, annotations: {keyferry.dev/cluster: fleet/{{.Target}}, keyferry.dev/delivery: {{.Delivery}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: client, image: {{.Image}}}
`, map[string]any{"Name": name, "NS": namespace, "Target": tn.Target, "Image": suite.clientImage, "Delivery": delivery})
	pod := &corev1.Pod{}
	if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil {
		t.Fatal(err)
	}
	return skewedPod{pod, tn.works(t, namespace, name, "client")}
}

// replacedBy waits until the installed release has replaced the token in the Secret, and checks
// that the new token works.
func replacedBy(t *testing.T, secret *corev1.Secret) {
	t.Helper()
	if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); err != nil {
		t.Fatal(err)
	}
	before := kubeconfigToken(t, secret)
	eventually(t, 2*time.Minute, "the Secret is renewed", func() error {
		if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); err != nil {
			return err
		}
		if kubeconfigToken(t, secret) == before {
			return errors.New("it has the same token")
		}
		return nil
	})
	plantIssued(secret)
	cfg, err := clientcmd.RESTConfigFromKubeConfig(secret.Data["kubeconfig"])
	if err == nil {
		err = listNamespaces(t.Context(), cfg)
	}
	if err != nil {
		t.Errorf("with the renewed Secret: %v", err)
	}
}

// kubeconfigToken returns the token of the kubeconfig in a Secret.
func kubeconfigToken(t *testing.T, secret *corev1.Secret) string {
	t.Helper()
	cfg, err := clientcmd.RESTConfigFromKubeConfig(secret.Data["kubeconfig"])
	if err != nil {
		t.Fatal(err)
	}
	return cfg.BearerToken
}
