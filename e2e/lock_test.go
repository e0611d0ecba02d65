package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestLock: while a target is locked, new Pods are denied, the Secret of a CredentialRequest is
// gone, and requests and watches of a running Pod with a proxy end within a minute. After it is
// unlocked, all work again without a restart.
func TestLock(t *testing.T) {
	t.Parallel()
	const reason = "incident of the test"
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.allow(t, requests, tn.Target)
	tn.applyTargetCluster(t, "{server: '"+tn.Server+"', tlsServerName: kubernetes.default.svc}") // which needs the proxy
	tn.waitFor(t, "Ready", "True")
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)
	before := tn.works(t, ns, pod.Name, "client")
	secret := tn.request(t, "kubeconfig")

	suite.keyferry(t, 0, "lock", "target", fleet+"/"+tn.Target, "--reason", reason)
	start := time.Now()
	another := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "another", Namespace: ns, Annotations: map[string]string{"keyferry.dev/cluster": fleet + "/" + tn.Target}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "client", Image: suite.clientImage}}},
	}
	eventually(t, 15*time.Second, "new Pods are denied with the reason", func() error {
		err := suite.management.Create(t.Context(), another.DeepCopy(), client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), reason) {
			return fmt.Errorf("the answer is %w", errors.Join(err, errors.New("no denial by the lock")))
		}
		return nil
	})
	t.Logf("new Pods are denied after %s", time.Since(start).Round(time.Millisecond))
	isGone(t, suite.management, secret.DeepCopy())
	eventually(t, 90*time.Second, "the proxy has no credential", func() error {
		all, err := reports(t.Context(), ns, pod.Name, "client")
		if err != nil {
			return err
		}
		last := all[len(all)-1]
		if !strings.Contains(last.LastError, reason) || last.WatchesEnded <= before.WatchesEnded {
			return fmt.Errorf("%d watches ended, the last error is %q", last.WatchesEnded, last.LastError)
		}
		return nil
	})
	t.Logf("the running Pod's requests and watches ended after at most %s", time.Since(start).Round(time.Second))

	suite.keyferry(t, 0, "unlock", "target", fleet+"/"+tn.Target)
	var last report
	eventually(t, 2*time.Minute, "requests work again", func() error {
		earlier := last
		all, err := reports(t.Context(), ns, pod.Name, "client")
		if err != nil {
			return err
		}
		last = all[len(all)-1]
		if earlier.Requests == 0 || last.Requests == earlier.Requests || last.Failures > earlier.Failures {
			return fmt.Errorf("%d of %d requests failed, before %d of %d", last.Failures, last.Requests, earlier.Failures, earlier.Requests)
		}
		return nil
	})
	eventually(t, time.Minute, "the Secret is there again", func() error {
		return suite.management.Get(t.Context(), client.ObjectKeyFromObject(secret), secret)
	})
	plantIssued(secret)
	notRestarted(t, pod)
}
