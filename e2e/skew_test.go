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

// TestSkew: Pods of the previous release are served by this one's broker, and Pods of this release
// by the previous one's, while Keyferry is rolled back, upgraded, rolled back and upgraded again.
// No request fails, each Pod renews under each release, and so does a CredentialRequest.
func TestSkew(t *testing.T) {
	revision := os.Getenv("KEYFERRY_PREVIOUS")
	if revision == "" {
		t.Fatal("KEYFERRY_PREVIOUS names no revision: make e2e-skew does")
	}
	chart, images, err := release.Previous(t.Context(), os.Stderr, revision)
	if err != nil {
		t.Fatal(err)
	}
	if err := release.Load(t.Context(), os.Stderr, suite.pair.Management, images); err != nil {
		t.Fatal(err)
	}
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.allow(t, requests, tn.Target)
	secret := tn.request(t, "kubeconfig")

	var pods []skewedPod
	for step, name := range []string{"this", "previous", "this", "previous", "this"} {
		refresher := suite.images["refresher"].Reference
		switch {
		case name == "previous":
			refresher = images["refresher"].Reference
			installPrevious(t, chart, images)
		case step > 0:
			suite.install(t, "")
		}
		for _, p := range pods {
			renewed(t, p.Pod, 2)
		}
		replacedBy(t, secret)
		for _, delivery := range []string{"direct", "proxy"} {
			p := tn.runSkewed(t, ns, fmt.Sprintf("%s-%d-%s", name, step, delivery), delivery)
			if got := p.Spec.InitContainers[0].Image; got != refresher {
				t.Errorf("the sidecar of Pod %s is %s, want %s", p.Name, got, refresher)
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

// installPrevious installs the previous release over this one.
func installPrevious(t *testing.T, chart string, images release.Images) {
	t.Helper()
	defer suite.witness.changed(time.Now())
	if err := release.InstallChart(t.Context(), os.Stderr, suite.pair.Management, chart, images, suite.values()); err != nil {
		t.Fatal(err)
	}
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

// replacedBy waits until whoever keeps the Secret now has replaced its credential, by one that
// works.
func replacedBy(t *testing.T, secret *corev1.Secret) {
	t.Helper()
	before := secret.ResourceVersion
	eventually(t, 2*time.Minute, "the Secret is renewed", func() error {
		if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); err != nil {
			return err
		}
		if secret.ResourceVersion == before {
			return errors.New("it is as it was")
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
