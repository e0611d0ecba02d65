package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/release"
)

// TestAvailability: every replica is replaced, the leader is killed, the release is upgraded and rolled back. No Pod that is created
// meanwhile is refused or left as it was, no renewal comes late, and no request fails.
func TestAvailability(t *testing.T) {
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)
	before := tn.works(t, ns, pod.Name, "client")
	creation := tn.createPods(t, ns)
	step := func(name string, do func()) {
		start := time.Now()
		do()
		t.Logf("%s: %s, %d Pods created so far, wrong: %v", name, time.Since(start).Round(time.Second), creation.count(), creation.wrong())
	}

	step("rolling restart", func() {
		for _, component := range []string{"webhook", "broker", "controller"} {
			restart(t, deployment("keyferry-"+component))
		}
	})
	step("killed leader", func() {
		killLeader(t)
		next := newStranger(t)
		next.secret(t, fleet, map[string][]byte{"kubeconfig": accessKubeconfig(t, next.Namespace)})
		next.applyTargetCluster(t, `{}`)
		next.waitFor(t, "Ready", "True")
	})
	step("upgrade", func() { suite.install(t, "logLevel: 1\npodLabels: {e2e: upgraded}\n") })
	if pods := keyferryPods(t, client.MatchingLabels{"e2e": "upgraded"}); len(pods) < 6 {
		t.Errorf("after the upgrade %d Pods are of the new revision, want 6", len(pods))
	}
	step("rollback", func() {
		if err := release.Helm(t.Context(), "rollback", release.Name, "--kubeconfig", suite.management.kubeconfig, "--namespace", release.Namespace, "--wait", "--timeout", "5m"); err != nil {
			t.Fatal(err)
		}
	})
	renewed(t, pod, 2)

	creation.stop()
	for _, wrong := range creation.wrong() {
		t.Error(wrong)
	}
	if n := creation.count(); n < 100 {
		t.Errorf("only %d Pods were created", n)
	}
	inTime(t, pod)
	if n, err := failuresSince(t.Context(), ns, pod.Name, before); err != nil || n != 0 {
		t.Errorf("%d requests failed (%v)", n, err)
	}
	notRestarted(t, pod)
}

// TestAuthorityRotation: Keyferry's own authority is succeeded by the next one while Pods renew and are created, and nobody notices. Its
// Secret is given the dates that it would have after years.
func TestAuthorityRotation(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)
	before := tn.works(t, ns, pod.Name, "client")
	creation := tn.createPods(t, ns)

	next := age(t)
	eventually(t, time.Minute, "the next authority signs, and both are published", func() error {
		secret := keyferrySecret(t, "keyferry-ca")
		trust := &corev1.ConfigMap{}
		if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "keyferry-trust"}, trust); err != nil {
			return err
		}
		if !slices.Equal(secret.Data["tls.crt"], next) || !strings.Contains(trust.Data["ca.crt"], string(next)) || strings.Count(trust.Data["ca.crt"], "BEGIN") != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	// As long as the kubelet may take to bring the bundle to Pods; it has a week.
	published := time.Now()
	eventually(t, 3*time.Minute, "Pods have the bundle", func() error {
		if left := time.Until(published.Add(2 * time.Minute)); left > 0 {
			return fmt.Errorf("that takes up to %s more", left)
		}
		return nil
	})
	// Certificates are signed anew after 60 days, or when they are gone.
	for _, name := range []string{"keyferry-webhook-tls", "keyferry-broker-tls"} {
		if err := suite.management.Delete(t.Context(), keyferrySecret(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, time.Minute, "certificates are signed by the next authority", func() error {
		for _, name := range []string{"keyferry-webhook-tls", "keyferry-broker-tls"} {
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: suite.release, Name: name}}
			if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); err != nil {
				return err
			}
			if err := signedBy(secret.Data["tls.crt"], next); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	renewed(t, pod, 6)

	creation.stop()
	for _, wrong := range creation.wrong() {
		t.Error(wrong)
	}
	inTime(t, pod)
	if n, err := failuresSince(t.Context(), ns, pod.Name, before); err != nil || n != 0 {
		t.Errorf("%d requests failed (%v)", n, err)
	}
	t.Logf("%d Pods were created meanwhile", creation.count())
}

// creation is what came of Pods that were created all the time.
type creation struct {
	stop func()

	mu      sync.Mutex
	created int
	errors  []error
}

// createPods has Pods of the tenant admitted, five a second, until the test stops it. They are not stored.
func (tn tenant) createPods(t *testing.T, namespace string) *creation {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &creation{}
	ended := make(chan struct{})
	c.stop = func() { cancel(); <-ended }
	t.Cleanup(c.stop)
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				c.note(ctx, tn.createPod(ctx, namespace))
			}
		}
	}()
	return c
}

// createPod says what is wrong with a Pod that asks for the tenant's target.
func (tn tenant) createPod(ctx context.Context, namespace string) error {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "dry-", Namespace: namespace, Annotations: map[string]string{"keyferry.dev/cluster": "fleet/" + tn.Target}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: suite.clientImage}}},
	}
	start := time.Now()
	if err := suite.management.Create(ctx, pod, client.DryRunAll); err != nil {
		return fmt.Errorf("a Pod created at %s was refused: %w", start.Format(time.TimeOnly), err)
	}
	if len(pod.Spec.InitContainers) == 0 || pod.Spec.InitContainers[0].Name != "keyferry-refresher" {
		return fmt.Errorf("a Pod created at %s has no refresher", start.Format(time.TimeOnly))
	}
	return nil
}

func (c *creation) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.created++
	if err != nil {
		c.errors = append(c.errors, err)
	}
}

func (c *creation) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.created
}

func (c *creation) wrong() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.errors)
}

// inTime: each renewal of the Pod came before the credential that it replaced was said to end.
func inTime(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	var ends time.Time
	renewals := 0
	lines := bufio.NewScanner(strings.NewReader(refresherLog(t, pod)))
	for lines.Scan() {
		var line struct {
			Time     time.Time `json:"time"`
			Message  string    `json:"msg"`
			NotAfter time.Time `json:"notAfter"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Message != "credential renewed" {
			continue
		}
		if !ends.IsZero() && line.Time.After(ends) {
			t.Errorf("the renewal at %s came %s late", line.Time.Format(time.TimeOnly), line.Time.Sub(ends))
		}
		ends = line.NotAfter
		renewals++
	}
	if renewals < 3 {
		t.Errorf("there were %d renewals, too few to tell", renewals)
	}
	t.Logf("%d renewals", renewals)
}

// killLeader ends the controller that leads, without a chance to say so.
func killLeader(t *testing.T) {
	t.Helper()
	leader := leads(t, "")
	name, _, _ := strings.Cut(leader, "_")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: suite.release, Name: name}}
	if err := suite.management.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	leads(t, leader)
	t.Logf("another controller led after %s", time.Since(start).Round(time.Second))
}

// leads waits until a controller leads, another one than that.
func leads(t *testing.T, other string) (leader string) {
	t.Helper()
	eventually(t, time.Minute, "a controller leads", func() error {
		var lease coordinationv1.Lease
		if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: suite.release, Name: "keyferry-controller"}, &lease); err != nil {
			return err
		}
		if leader = ptr.Deref(lease.Spec.HolderIdentity, ""); leader == other || leader == "" {
			return fmt.Errorf("it is %q", leader)
		}
		return nil
	})
	return leader
}

func keyferryPods(t *testing.T, labels client.MatchingLabels) []corev1.Pod {
	t.Helper()
	var pods corev1.PodList
	if err := suite.management.List(t.Context(), &pods, client.InNamespace(suite.release), labels); err != nil {
		t.Fatal(err)
	}
	return pods.Items
}

func keyferrySecret(t *testing.T, name string) *corev1.Secret {
	t.Helper()
	secret := &corev1.Secret{}
	if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: suite.release, Name: name}, secret); err != nil {
		t.Fatal(err)
	}
	return secret
}

// age takes the authority to the end of its life: the same key and name, but the certificate ends in 100 days, and a successor has been
// published for eight days. It returns the successor's certificate.
func age(t *testing.T) (next []byte) {
	t.Helper()
	secret := keyferrySecret(t, "keyferry-ca")
	block, _ := pem.Decode(secret.Data["tls.crt"])
	old, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(secret.Data["tls.key"])
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("the key is a %T", parsed)
	}
	day := 24 * time.Hour
	old.NotAfter = time.Now().Add(100 * day)
	secret.Data["tls.crt"] = selfSigned(t, old, key)

	nextKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(nextKey)
	if err != nil {
		t.Fatal(err)
	}
	next = selfSigned(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "the next authority"}, NotBefore: time.Now().Add(-8 * day), NotAfter: time.Now().Add(1000 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, nextKey)
	secret.Data["next.crt"], secret.Data["next.key"] = next, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := suite.management.Update(t.Context(), secret); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return next
}

func selfSigned(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// signedBy says why a certificate is not of an authority; both in PEM.
func signedBy(certificate, authority []byte) error {
	var parsed [2]*x509.Certificate
	for i, data := range [][]byte{certificate, authority} {
		block, _ := pem.Decode(data)
		if block == nil {
			return errors.New("there is no certificate")
		}
		var err error
		if parsed[i], err = x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
	}
	return parsed[0].CheckSignatureFrom(parsed[1])
}
