package e2e

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/release"
)

// TestAvailability: every replica is replaced, the leader is killed, the release is upgraded and
// rolled back. No Pod that is created meanwhile is refused or left as it was, no renewal comes
// late, and no request fails.
func TestAvailability(t *testing.T) {
	tn, ns, pod, before := workingPod(t)
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
	step("upgrade", func() {
		// Caches are filled by lists, as from API servers that cannot stream them.
		suite.install(t, "logLevel: 1\npodLabels: {e2e: upgraded}\nenv: [{name: KUBE_FEATURE_WatchListClient, value: 'false'}]\n")
		newTenant(t)
	})
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

// creation is what came of Pods that were created all the time.
type creation struct {
	stop func()

	mu      sync.Mutex
	created int
	errors  []error
}

// createPods has Pods of the tenant admitted, five a second, until the test stops it. They are not
// stored.
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
