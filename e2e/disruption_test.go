package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestBrokerOutage: while the broker is away, Pods go on with what they have; when it is back, they
// renew by themselves. Restarting the webhook meanwhile is not noticed by running Pods at all.
func TestBrokerOutage(t *testing.T) {
	_, ns, pod, before := workingPod(t)

	broker, webhook := deployment("keyferry-broker"), deployment("keyferry-webhook")
	replicas := scale(t, broker, 0)
	restart(t, webhook)
	// Longer than several renewals would have taken; the token itself, which the target issued for ten
	// minutes, is still good.
	eventually(t, 2*time.Minute, "requests go on for 40 s without a broker", func() error {
		all, err := reports(t.Context(), ns, pod.Name, "client")
		if err != nil {
			return err
		}
		if last := all[len(all)-1]; last.Time.Sub(before.Time) < 40*time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	stale, err := reports(t.Context(), ns, pod.Name, "client")
	if err != nil {
		t.Fatal(err)
	}
	scale(t, broker, replicas)
	eventually(t, 2*time.Minute, "renewal goes on", func() error {
		all, err := reports(t.Context(), ns, pod.Name, "client")
		if err != nil {
			return err
		}
		if all[len(all)-1].TokenSHA256 == stale[len(stale)-1].TokenSHA256 {
			return errors.New("the token is still the old one")
		}
		return nil
	})
	if n, err := failuresSince(t.Context(), ns, pod.Name, before); err != nil || n != 0 {
		t.Errorf("%d requests failed (%v)", n, err)
	}
	now := &corev1.Pod{}
	if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(pod), now); err != nil {
		t.Fatal(err)
	}
	for _, status := range append(now.Status.InitContainerStatuses, now.Status.ContainerStatuses...) {
		if status.RestartCount != 0 {
			t.Errorf("container %s was restarted", status.Name)
		}
	}
}

// TestEndpointMove: the target's API server gets another address. The Pod, unchanged, works on the
// new one; where the cluster cannot restart it in place (before Kubernetes 1.36), it stays with the
// old one and says so. A wrong address before that restarts nothing and breaks nothing.
func TestEndpointMove(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	forwarder, authority := forward(t, ns)
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)
	before := tn.works(t, ns, pod.Name, "client")
	if before.Host != tn.Server {
		t.Fatalf("the client's host is %q, want %q", before.Host, tn.Server)
	}

	// Nothing listens there; the discard port of a name that resolves.
	tn.applyTargetCluster(t, fmt.Sprintf("{server: 'https://%s:9', certificateAuthorityData: %s}", forwarder, authority))
	tn.waitFor(t, "Reachable", "False")
	// Several polls of the refresher and, had it trusted the address, a restart would be over by then.
	eventually(t, 2*time.Minute, "40 s with a wrong address", func() error {
		all, err := reports(t.Context(), ns, pod.Name, "client")
		if err != nil {
			return err
		}
		if last := all[len(all)-1]; last.Time.Sub(before.Time) < 40*time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	if n, err := failuresSince(t.Context(), ns, pod.Name, before); err != nil || n != 0 {
		t.Errorf("with a wrong address %d requests failed (%v)", n, err)
	}

	if n := restarts(t, pod); n != 0 {
		t.Errorf("with a wrong address the client was restarted %d times", n)
	}

	tn.applyTargetCluster(t, fmt.Sprintf("{server: 'https://%s:8443', certificateAuthorityData: %s}", forwarder, authority))
	tn.waitFor(t, "Reachable", "True")
	if !strings.Contains(pod.Annotations["keyferry.dev/status"], `"onEndpointChange":"restart"`) {
		staysWithOldAddress(t, pod, before)
		gets(t, "keeps the old endpoint until the Pod is replaced")
		return
	}
	gets(t, "restarts in place")
	eventually(t, 3*time.Minute, "the restarted client is on the new address", func() error {
		if r := tn.works(t, ns, pod.Name, "client"); r.Host != "https://"+forwarder+":8443" {
			return fmt.Errorf("its host is %s", r.Host)
		}
		return nil
	})
	if n := restarts(t, pod); n != 1 {
		t.Errorf("the client was restarted %d times, want once", n)
	}
}

// staysWithOldAddress: the refresher says what has to be done, and the client goes on as it was.
func staysWithOldAddress(t *testing.T, pod *corev1.Pod, before report) {
	t.Helper()
	eventually(t, 2*time.Minute, "the refresher says that the Pod must be recreated", func() error {
		if !strings.Contains(refresherLog(t, pod), "recreate the Pod to use the new endpoint") {
			return errors.New("its log does not say so")
		}
		return nil
	})
	if n, err := failuresSince(t.Context(), pod.Namespace, pod.Name, before); err != nil || n != 0 {
		t.Errorf("with another address %d requests failed (%v)", n, err)
	}
	if n := restarts(t, pod); n != 0 {
		t.Errorf("the client was restarted %d times", n)
	}
}

// restarts is how often the first container of a Pod was restarted. The Pod must still be the same.
func restarts(t *testing.T, pod *corev1.Pod) int32 {
	t.Helper()
	now := &corev1.Pod{}
	if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(pod), now); err != nil {
		t.Fatal(err)
	}
	if now.UID != pod.UID {
		t.Fatal("it is another Pod")
	}
	return now.Status.ContainerStatuses[0].RestartCount
}

// forward brings up another address for the target's API server, with a certificate authority of
// its own, and returns its name and the authority's bundle in base64.
func forward(t *testing.T, namespace string) (host, authority string) {
	t.Helper()
	return forwardFor(t, namespace, 0)
}

// forwardFor is forward with a target that refuses tokens of this age, or takes them as long as
// they say, if that is zero.
func forwardFor(t *testing.T, namespace string, life time.Duration) (host, authority string) {
	t.Helper()
	host = "forward." + namespace + ".svc"
	suite.management.mustApply(t, `
apiVersion: v1
kind: Service
metadata: {name: forward, namespace: {{.NS}}}
spec: {selector: {app: forward}, ports: [{port: 8443}]}
`, map[string]any{"NS": namespace})
	identity := selfMade(t, host)
	identity.forward(t, namespace, "forward", "--token-life="+life.String())
	answers(t, namespace, "forward", "forward")
	return host, base64.StdEncoding.EncodeToString(identity.authority)
}

// identity is what a server presents, and the authority that vouches for it, in PEM.
type identity struct{ authority, certificate, key []byte }

// forward adds a Pod with that identity to those behind the address.
func (i identity) forward(t *testing.T, namespace, name string, flags ...string) {
	t.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Data:       map[string][]byte{"tls.crt": i.certificate, "tls.key": i.key, "upstream.crt": suite.targetCA},
	}
	suite.secrets.Add("the key of Secret "+namespace+"/"+name, i.key)
	if err := suite.management.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata: {name: {{.Name}}, namespace: {{.NS}}, labels: {app: forward}}
spec:
  terminationGracePeriodSeconds: 15
  containers:
  - name: forward
    image: {{.Image}}
    args: [forward, --to={{.Server}}{{range .Flags}}, {{.}}{{end}}]
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts: [{name: certificates, mountPath: /etc/forward}]
  volumes: [{name: certificates, secret: {secretName: {{.Name}}}}]
`, map[string]any{"Name": name, "NS": namespace, "Image": suite.podtoolsImage, "Server": suite.targetServer, "Flags": flags})
}

// selfMade makes an authority and a certificate for a host, in PEM.
func selfMade(t *testing.T, host string) identity {
	t.Helper()
	create := func(template, parent *x509.Certificate, public *ecdsa.PublicKey, signer *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey, leafKey := newKey(), newKey()
	now := time.Now()
	id := make([]byte, 20) // strict clients want to find the authority by it
	if _, err := rand.Read(id); err != nil {
		t.Fatal(err)
	}
	caTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprintf("e2e forward CA %x", id[:4])}, SubjectKeyId: id, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return identity{
		authority:   create(caTemplate, caTemplate, &caKey.PublicKey, caKey),
		certificate: create(leaf, caTemplate, &leafKey.PublicKey, caKey),
		key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}
}

func deployment(name string) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: suite.release}}
}

// scale sets the replicas of a Deployment, waits until as many run and returns how many there were.
func scale(t *testing.T, d *appsv1.Deployment, replicas int32) (before int32) {
	t.Helper()
	if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
		t.Fatal(err)
	}
	before = ptr.Deref(d.Spec.Replicas, 1)
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas))
	if err := suite.management.Patch(t.Context(), d, patch); err != nil {
		t.Fatal(err)
	}
	settle(t, d, replicas)
	return before
}

func restart(t *testing.T, d *appsv1.Deployment) {
	t.Helper()
	if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
		t.Fatal(err)
	}
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"e2e/restarted":%q}}}}}`, time.Now()))
	if err := suite.management.Patch(t.Context(), d, patch); err != nil {
		t.Fatal(err)
	}
	settle(t, d, ptr.Deref(d.Spec.Replicas, 1))
}

func settle(t *testing.T, d *appsv1.Deployment, replicas int32) {
	t.Helper()
	eventually(t, 2*time.Minute, fmt.Sprintf("Deployment %s has %d replicas", d.Name, replicas), func() error {
		if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration < d.Generation || s.Replicas != replicas || s.UpdatedReplicas != replicas || s.ReadyReplicas != replicas {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
}
