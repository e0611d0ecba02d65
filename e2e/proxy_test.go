package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// loopback is where clients find the proxy in their Pod.
const loopback = "https://127.0.0.1:16443"

// TestProxy: a program that can express neither a TLS server name nor a change of the endpoint
// works on a target that has both, through renewals, a new CA and a move, without a restart or one
// failed request.
func TestProxy(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	forwarder, authority := forward(t, ns)
	tn.applyTargetCluster(t, "{server: '"+tn.Server+"', tlsServerName: kubernetes.default.svc}")
	tn.waitFor(t, "Ready", "True")
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)
	before := tn.works(t, ns, pod.Name, "client")
	if before.Host != loopback {
		t.Fatalf("the client's host is %q", before.Host)
	}
	if status := pod.Annotations["keyferry.dev/status"]; !strings.Contains(status, `"delivery":"Proxy"`) || !strings.Contains(status, "tlsServerName") {
		t.Errorf("the status annotation is %s", status)
	}
	renewed(t, pod, 4)

	// Old and new overlap, as in a rotation.
	both := base64.StdEncoding.EncodeToString(slices.Concat(suite.targetCA, selfMade(t, "other.example.com").authority))
	tn.applyTargetCluster(t, fmt.Sprintf("{server: '%s', tlsServerName: kubernetes.default.svc, certificateAuthorityData: %s}", tn.Server, both))
	tn.waitFor(t, "Reachable", "True")
	renewed(t, pod, 3)

	// In-cluster clients could express this one; the Pod has its proxy all the same.
	tn.applyTargetCluster(t, fmt.Sprintf("{server: 'https://%s:8443', certificateAuthorityData: %s}", forwarder, authority))
	tn.waitFor(t, "Reachable", "True")
	eventually(t, 2*time.Minute, "the proxy is on the new address", func() error {
		if log := refresherLog(t, pod); !strings.Contains(log, `"endpoint":"https://`+forwarder+`:8443"`) {
			return errors.New("its log does not say so")
		}
		return nil
	})
	renewed(t, pod, 3)

	after := tn.works(t, ns, pod.Name, "client")
	if after.Failures != 0 {
		t.Errorf("%d of %d requests failed, the last with %s", after.Failures, after.Requests, after.LastError)
	}
	if after.TokenSHA256 != before.TokenSHA256 || after.Host != loopback {
		t.Errorf("the client was told something new: host %q", after.Host)
	}
	notRestarted(t, pod)
	t.Logf("%d requests, %d failures\n%s", after.Requests, after.Failures, suite.keyferry(t, 0, "check", pod.Name, "-n", ns))
}

// TestClientCertificate: the credential that is handed on is a client certificate, which in-cluster
// clients cannot present.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	review, err := suite.target.clientset.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := suite.target.namespace(t, nil)
	tn := tenant{Namespace: there, User: review.Status.UserInfo.Username, Target: there, Server: suite.targetServer}
	tn.secret(t, fleet, map[string][]byte{"kubeconfig": certificateKubeconfig(t)})
	tn.applySpec(t, "access: {type: Kubeconfig, kubeconfig: {name: "+tn.Target+"}}\nissue: {type: Access}\n")
	tn.waitFor(t, "Ready", "True")

	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)
	tn.works(t, ns, pod.Name, "client")
	renewed(t, pod, 3)
	if last := tn.works(t, ns, pod.Name, "client"); last.Failures != 0 || last.Host != loopback {
		t.Errorf("%d of %d requests to %s failed, the last with %s", last.Failures, last.Requests, last.Host, last.LastError)
	}
	notRestarted(t, pod)
}

// certificateKubeconfig is a kubeconfig of who made the target, with a client certificate.
func certificateKubeconfig(t *testing.T) []byte {
	t.Helper()
	admin := suite.target.config
	if len(admin.CertData) == 0 || len(admin.KeyData) == 0 {
		t.Fatal("the target's administrator has no client certificate")
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["target"] = &clientcmdapi.Cluster{Server: suite.targetServer, CertificateAuthorityData: suite.targetCA}
	cfg.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: admin.CertData, ClientKeyData: admin.KeyData}
	cfg.Contexts["target"] = &clientcmdapi.Context{Cluster: "target", AuthInfo: "admin"}
	cfg.CurrentContext = "target"
	out, err := clientcmd.Write(*cfg)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// renewed waits for a number of renewals from now on. A client of the proxy sees nothing of them.
func renewed(t *testing.T, pod *corev1.Pod, times int) {
	t.Helper()
	count := func() int { return strings.Count(refresherLog(t, pod), `"msg":"credential renewed"`) }
	before := count()
	eventually(t, 3*time.Minute, fmt.Sprintf("%d renewals", times), func() error {
		if n := count() - before; n < times {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
}

func refresherLog(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	out, err := suite.management.clientset.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: "keyferry-refresher"}).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// notRestarted: every container of the Pod is still the one that ran when the Pod was read.
func notRestarted(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	now := &corev1.Pod{}
	if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(pod), now); err != nil {
		t.Fatal(err)
	}
	if now.UID != pod.UID {
		t.Error("it is another Pod")
	}
	before := restartCounts(pod)
	for name, count := range restartCounts(now) {
		if count != before[name] {
			t.Errorf("container %s of Pod %s was restarted", name, pod.Name)
		}
	}
}

func restartCounts(pod *corev1.Pod) map[string]int32 {
	counts := map[string]int32{}
	for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		counts[status.Name] = status.RestartCount
	}
	return counts
}
