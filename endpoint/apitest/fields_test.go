package apitest

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/endpoint/endpointtest"
)

// TestFieldsAlone checks that each field of spec.endpoint can be set alone, together with a
// kubeconfig or a ClusterProfile. It overrides their field, and the other fields still follow their
// changes.
func TestFieldsAlone(t *testing.T) {
	const otherCA = "# another bundle\n" + endpointtest.CertificateAuthority
	before := endpoint.Endpoint{
		Server: "https://203.0.113.7:6443", CertificateAuthority: []byte(endpointtest.CertificateAuthority),
		TLSServerName: "before.example", ProxyURL: "http://before.example:3128",
	}
	after := endpoint.Endpoint{
		Server: "https://203.0.113.8:6443", CertificateAuthority: []byte(endpointtest.CertificateAuthority + endpointtest.CertificateAuthority),
		TLSServerName: "after.example", ProxyURL: "http://after.example:3128",
	}
	for name, own := range map[string]endpoint.Endpoint{
		"nothing": {},
		"server":  {Server: "https://203.0.113.9:6443"},
		"ca":      {CertificateAuthority: []byte(otherCA)},
		"name":    {TLSServerName: "own.example"},
		"proxy":   {ProxyURL: "http://own.example:3128"},
	} {
		for beside, origin := range map[string]func(*testing.T, *v1alpha1.TargetCluster) func(endpoint.Endpoint){
			"kubeconfig": inKubeconfig, "profile": inProfile,
		} {
			t.Run(name+" beside "+beside, func(t *testing.T) {
				tc := targetCluster(namespace, "field-"+name+"-"+beside)
				tc.Spec.Endpoint = inSpec(own)
				write := origin(t, tc)
				write(before)
				must(t, world.client.Create(t.Context(), tc))
				checkMerged(t, client.ObjectKeyFromObject(tc), own.Or(before))
				write(after)
				world.later.Add(int64(time.Hour)) // nothing is remembered that long
				checkMerged(t, client.ObjectKeyFromObject(tc), own.Or(after))
			})
		}
	}
}

// TestReplacedFields: a field of spec.endpoint also replaces one that could not be used, and the
// part that it is missing in says so without it.
func TestReplacedFields(t *testing.T) {
	ca := []byte(endpointtest.CertificateAuthority)
	whole := endpoint.Endpoint{Server: "https://203.0.113.7:6443", CertificateAuthority: ca}
	for name, test := range map[string]struct {
		kubeconfig func(*clientcmdapi.Cluster)
		own        endpoint.Endpoint
		rejected   string // without own
	}{
		"no-server":       {func(c *clientcmdapi.Cluster) { c.Server = "" }, endpoint.Endpoint{Server: whole.Server}, "server is empty"},
		"bad-server":      {func(c *clientcmdapi.Cluster) { c.Server = "http://localhost" }, endpoint.Endpoint{Server: whole.Server}, `scheme "http"`},
		"local-server":    {func(c *clientcmdapi.Cluster) { c.Server = "https://127.0.0.1:6443" }, endpoint.Endpoint{Server: whole.Server}, "loopback"},
		"no-ca":           {func(c *clientcmdapi.Cluster) { c.CertificateAuthorityData = nil }, endpoint.Endpoint{CertificateAuthority: ca}, "certificateAuthorityData"},
		"ca-in-a-file":    {func(c *clientcmdapi.Cluster) { c.CertificateAuthorityData, c.CertificateAuthority = nil, "/ca.crt" }, endpoint.Endpoint{CertificateAuthority: ca}, "certificate-authority is the path of a file"},
		"ca-malformed":    {func(c *clientcmdapi.Cluster) { c.CertificateAuthorityData = []byte("no PEM") }, endpoint.Endpoint{CertificateAuthority: ca}, "not PEM"},
		"not-verified":    {func(c *clientcmdapi.Cluster) { c.CertificateAuthorityData, c.InsecureSkipTLSVerify = nil, true }, endpoint.Endpoint{CertificateAuthority: ca}, "insecure-skip-tls-verify"},
		"roots":           {func(c *clientcmdapi.Cluster) { c.CertificateAuthorityData, c.InsecureSkipTLSVerify = nil, true }, endpoint.Endpoint{SystemRoots: true}, "insecure-skip-tls-verify"},
		"proxy-malformed": {func(c *clientcmdapi.Cluster) { c.ProxyURL = "ftp://proxy.example" }, endpoint.Endpoint{ProxyURL: "http://proxy.example"}, "ftp"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := clientcmd.Load(kubeconfigWith(t, whole))
			must(t, err)
			test.kubeconfig(config.Clusters["target"])
			text, err := clientcmd.Write(*config)
			must(t, err)
			testTargetCluster(t, targetCluster(namespace, "alone-"+name), text, expectation{rejected: test.rejected})
			tc := targetCluster(namespace, "replaced-"+name)
			tc.Spec.Endpoint = inSpec(test.own)
			testTargetCluster(t, tc, text, expectation{})
		})
	}
	t.Run("profile without a server", func(t *testing.T) {
		tc := targetCluster(namespace, "profile-no-server")
		write := inProfile(t, tc)
		write(endpoint.Endpoint{CertificateAuthority: ca})
		testTargetCluster(t, tc.DeepCopy(), nil, expectation{rejected: "set one of them"})
		other := tc.DeepCopy()
		other.Name, other.Spec.Endpoint = "profile-own-server", inSpec(endpoint.Endpoint{Server: whole.Server})
		testTargetCluster(t, other, nil, expectation{})
	})
}

// inKubeconfig returns a function that writes an endpoint to the kubeconfig of a TargetCluster.
func inKubeconfig(t *testing.T, tc *v1alpha1.TargetCluster) func(endpoint.Endpoint) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: tc.Namespace, Name: tc.Name}}
	must(t, world.client.Create(t.Context(), secret))
	return func(e endpoint.Endpoint) {
		secret.Data = map[string][]byte{"value": kubeconfigWith(t, e)}
		must(t, world.client.Update(t.Context(), secret))
	}
}

// inProfile returns a function that writes an endpoint to the ClusterProfile of a TargetCluster. It
// makes the TargetCluster name the ClusterProfile.
func inProfile(t *testing.T, tc *v1alpha1.TargetCluster) func(endpoint.Endpoint) {
	tc.Spec.ClusterProfile = &v1alpha1.ObjectReference{Namespace: tc.Namespace, Name: tc.Name}
	tc.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessExec, Exec: &v1alpha1.ExecAccess{Provider: "pods", RunIn: v1alpha1.RunInPod}}
	profile := &inventory.ClusterProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: tc.Namespace, Name: tc.Name},
		Spec:       inventory.ClusterProfileSpec{ClusterManager: inventory.ClusterManager{Name: "test"}},
	}
	must(t, world.client.Create(t.Context(), profile))
	return func(e endpoint.Endpoint) {
		profile.Status = clusterProfile(tc.Namespace, tc.Name, "pods", e).Status
		must(t, world.client.Status().Update(t.Context(), profile))
	}
}

// checkMerged compares the endpoint in the status of the TargetCluster with that in the broker's
// response.
func checkMerged(t *testing.T, name types.NamespacedName, expected endpoint.Endpoint) {
	t.Helper()
	if got := ofController(t, name); got.rejected != "" {
		t.Fatalf("the controller rejects it: %+v", got)
	}
	var tc v1alpha1.TargetCluster
	must(t, world.client.Get(t.Context(), name, &tc))
	cluster := issued(t, world.broker, wire.TargetClusterPath(name.Namespace, name.Name)).Spec.Cluster
	got := endpoint.Endpoint{
		Server: cluster.Server, CertificateAuthority: cluster.CertificateAuthorityData, TLSServerName: cluster.TLSServerName, ProxyURL: cluster.ProxyURL,
	}
	if !got.Equal(expected) || tc.Status.Endpoint != expected.Server {
		text, _ := json.Marshal(expected)
		t.Errorf("status.endpoint is %s, the broker answers %+v\nwant %s", tc.Status.Endpoint, got, text)
	}
}
