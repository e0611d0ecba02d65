package e2e

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/release"
)

// TestInstallation: a Pod works while Keyferry is uninstalled, and renews again under each provider
// of certificates that it is installed with: cert-manager, Secrets that somebody provides and
// replaces, and its own authority. Not one request fails.
func TestInstallation(t *testing.T) {
	tn, ns, pod, before := workingPod(t)
	// Whatever fails here, the other tests find Keyferry as the suite installed it.
	t.Cleanup(func() {
		if t.Failed() {
			if err := suite.installation(context.Background(), ""); err != nil {
				t.Error(err)
			}
		}
	})

	uninstall(t)
	tn.guarded(t, ns)
	eventually(t, 2*time.Minute, "the Pod works for 40 s without Keyferry", func() error {
		if left := 40*time.Second - tn.works(t, ns, pod.Name, "client").Time.Sub(before.Time); left > 0 {
			return fmt.Errorf("%s are left", left)
		}
		return nil
	})

	installCertManager(t)
	suite.install(t, "certificates: {mode: cert-manager}\n")
	tn.servedAgain(t, ns, pod)
	secret := keyferrySecret(t, "keyferry-webhook-tls")
	if err := signedBy(secret.Data["tls.crt"], secret.Data["ca.crt"]); err != nil {
		t.Errorf("the webhook's certificate: %v", err)
	}
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := suite.management.Get(t.Context(), client.ObjectKey{Name: "keyferry-webhook"}, configuration); err != nil {
		t.Fatal(err)
	}
	for i := range configuration.Webhooks {
		if hook := configuration.Webhooks[i]; !bytes.Equal(hook.ClientConfig.CABundle, secret.Data["ca.crt"]) {
			t.Errorf("cert-manager's injector has not written the CA bundle of %s", hook.Name)
		}
	}

	provide(t)
	suite.install(t, "certificates: {mode: provided, provided: {webhookSecret: own-webhook, brokerSecret: own-broker, controllerSecret: own-controller}}\n")
	tn.servedAgain(t, ns, pod)
	serving := keyferryPods(t, nil)
	provide(t)
	tn.servedAgain(t, ns, pod)
	if now := keyferryPods(t, nil); !slices.EqualFunc(serving, now, func(a, b corev1.Pod) bool { return a.UID == b.UID && restartsOf(&a) == restartsOf(&b) }) {
		t.Error("for certificates to be read again, Pods of Keyferry were replaced or restarted")
	}

	suite.install(t, "")
	tn.servedAgain(t, ns, pod)
	if n, err := failuresSince(t.Context(), ns, pod.Name, before); err != nil || n != 0 {
		t.Errorf("%d requests failed (%v)", n, err)
	}
	notRestarted(t, pod)
}

// uninstall removes the release. TargetClusters stay, and so does the guard.
func uninstall(t *testing.T) {
	t.Helper()
	defer suite.witness.changed(time.Now())
	if err := release.Helm(t.Context(), "uninstall", release.Name, "--kubeconfig", suite.management.kubeconfig, "--namespace", release.Namespace, "--wait", "--timeout", "2m"); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "nothing of Keyferry runs", func() error {
		var deployments appsv1.DeploymentList
		if err := suite.management.List(t.Context(), &deployments, client.InNamespace(suite.release)); err != nil {
			return err
		}
		if n, m := len(deployments.Items), len(keyferryPods(t, nil)); n+m > 0 {
			return fmt.Errorf("there are %d Deployments and %d Pods", n, m)
		}
		return nil
	})
}

// servedAgain: Pods are admitted and have a refresher, and the Pod renews.
func (tn tenant) servedAgain(t *testing.T, namespace string, pod *corev1.Pod) {
	t.Helper()
	eventually(t, 3*time.Minute, "Pods are admitted", func() error { return tn.createPod(t.Context(), namespace) })
	renewed(t, pod, 2)
}

// provide writes Secrets with new certificates of new authorities.
func provide(t *testing.T) {
	t.Helper()
	identities, bundle := map[string]identity{}, []byte{}
	for _, component := range []string{"webhook", "broker", "controller"} {
		own := selfMade(t, "keyferry-"+component+"."+suite.release+".svc")
		identities["own-"+component], bundle = own, append(bundle, own.authority...)
	}
	for name, identity := range identities {
		suite.secrets.Add("the key of Secret "+name, identity.key)
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: suite.release, Name: name},
			Data:       map[string][]byte{"tls.crt": identity.certificate, "tls.key": identity.key, "ca.crt": bundle},
		}
		err := suite.management.Create(t.Context(), secret.DeepCopy())
		if client.IgnoreAlreadyExists(err) == nil {
			err = suite.management.Update(t.Context(), secret)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func restartsOf(pod *corev1.Pod) (n int32) {
	for i := range pod.Status.ContainerStatuses {
		n += pod.Status.ContainerStatuses[i].RestartCount
	}
	return n
}
