package apitest

import (
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/endpoint/endpointtest"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/moduleroot"
	"github.com/keyferry/keyferry/issuer/resolve"
)

// expectation is the result that all components must have. An empty field is not compared.
type expectation struct {
	// rejected is a part of the message; empty if Pods can have the target.
	rejected string
	reason   string
	delivery endpoint.Delivery
}

func (e expectation) check(t *testing.T, part string, got answer) {
	t.Helper()
	if e.rejected == "" && got.rejected != "" || !strings.Contains(got.rejected, e.rejected) ||
		e.reason != "" && got.reason != "" && got.reason != e.reason ||
		e.delivery != "" && got.delivery != "" && got.delivery != string(e.delivery) {
		t.Errorf("%s: got %+v, want %+v", part, got, e)
	}
}

// agree reports components with another result than first. The messages may contain more, such as
// the name of the object.
func agree(t *testing.T, first answer, others map[string]answer) {
	t.Helper()
	for part, got := range others {
		if (first.rejected == "") != (got.rejected == "") || !strings.Contains(got.rejected, strings.TrimSpace(first.rejected)) ||
			first.reason != "" && got.reason != "" && first.reason != got.reason ||
			first.delivery != "" && got.delivery != "" && first.delivery != got.delivery ||
			first.deliveryReason != "" && got.deliveryReason != "" && first.deliveryReason != got.deliveryReason {
			t.Errorf("%s: got %+v\nwant %+v", part, got, first)
		}
	}
}

func expected(c endpointtest.Case) expectation {
	switch {
	case c.Rejected != "":
		return expectation{rejected: c.Rejected}
	case c.Host == "":
		return expectation{delivery: endpoint.Proxy}
	}
	return expectation{delivery: endpoint.Direct}
}

// TestKubeconfigs tests each endpoint of the shared cases in the kubeconfig of a TargetCluster.
func TestKubeconfigs(t *testing.T) {
	t.Parallel()
	for name, c := range numbered(endpointtest.Cases(), "kubeconfig") {
		t.Run(name.of, func(t *testing.T) {
			t.Parallel()
			testTargetCluster(t, targetCluster(namespace, name.object), kubeconfigWith(t, c.Endpoint), expected(c))
		})
	}
}

// TestSpecs tests each endpoint of the shared cases in the spec of a TargetCluster. The API server
// may reject an endpoint that all components reject.
func TestSpecs(t *testing.T) {
	t.Parallel()
	for name, c := range numbered(endpointtest.Cases(), "spec") {
		t.Run(name.of, func(t *testing.T) {
			t.Parallel()
			tc := targetCluster(namespace, name.object)
			tc.Spec.Endpoint = &v1alpha1.Endpoint{
				Server: c.Endpoint.Server, CertificateAuthorityData: c.Endpoint.CertificateAuthority,
				TLSServerName: c.Endpoint.TLSServerName, ProxyURL: c.Endpoint.ProxyURL,
			}
			tc.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessExec, Exec: &v1alpha1.ExecAccess{Provider: "pods", RunIn: v1alpha1.RunInPod}}
			if err := world.client.Create(t.Context(), tc.DeepCopy(), client.DryRunAll); err != nil {
				if c.Rejected == "" && strings.Contains(c.Endpoint.Server, "://") { // kubeconfigs may have no scheme
					t.Errorf("the API server rejects what the others accept: %v", err)
				}
				return
			}
			testTargetCluster(t, tc, nil, expected(c))
		})
	}
}

// TestClusterProfiles tests each endpoint of the shared cases in a ClusterProfile that Pods use
// without a TargetCluster.
func TestClusterProfiles(t *testing.T) {
	t.Parallel()
	for name, c := range numbered(endpointtest.Cases(), "profile") {
		t.Run(name.of, func(t *testing.T) {
			t.Parallel()
			testClusterProfile(t, clusterProfile(namespace, name.object, "pods", c.Endpoint), expected(c))
		})
	}
	reachable := endpoint.Endpoint{Server: "https://203.0.113.7", CertificateAuthority: []byte(endpointtest.CertificateAuthority)}
	for name, test := range map[string]struct {
		profile *inventory.ClusterProfile
		expectation
	}{
		"plugin in the broker": {
			clusterProfile(namespace, "ambient", "broker", reachable),
			expectation{rejected: "which is not allowed in namespace fleet", reason: endpoint.ReasonAmbientRefused},
		},
		"plugin in the broker, allowed": {clusterProfile(ambientNamespace, "ambient", "broker", reachable), expectation{}},
		"no CA": { // the system's count
			clusterProfile(namespace, "no-authority", "pods", endpoint.Endpoint{Server: reachable.Server}),
			expectation{delivery: endpoint.Direct},
		},
		"this cluster's API server": {
			clusterProfile(namespace, "hub", "pods", endpoint.Endpoint{Server: "https://" + world.clusterIP, CertificateAuthority: reachable.CertificateAuthority}),
			expectation{rejected: world.clusterIP, reason: "AddressRefused"},
		},
		"unknown plugin": {
			clusterProfile(namespace, "unknown-plugin", "other", reachable),
			expectation{rejected: "access providers is in the provider file", reason: "InvalidClusterProfile"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testClusterProfile(t, test.profile, test.expectation)
		})
	}
}

// TestTargetClusters tests other fields of a TargetCluster.
func TestTargetClusters(t *testing.T) {
	reachable := endpoint.Endpoint{Server: "https://203.0.113.7", CertificateAuthority: []byte(endpointtest.CertificateAuthority)}
	path := reachable
	path.Server += "/k8s/clusters/c-1"
	ambient := v1alpha1.Access{Type: v1alpha1.AccessGKE, GKE: &v1alpha1.GKEAccess{Identity: v1alpha1.IdentityAmbient}}
	inBroker := v1alpha1.Access{Type: v1alpha1.AccessExec, Exec: &v1alpha1.ExecAccess{Provider: "broker", RunIn: v1alpha1.RunInBroker}}
	for name, test := range map[string]struct {
		namespace string
		endpoint  endpoint.Endpoint // in the kubeconfig
		change    func(*v1alpha1.TargetClusterSpec)
		expectation
	}{
		"no CA": {
			endpoint:    endpoint.Endpoint{Server: reachable.Server},
			expectation: expectation{rejected: "set spec.endpoint.certificateAuthorityData", reason: endpoint.ReasonNoCertificateAuthority},
		},
		"no CA, and the system's": {
			endpoint:    endpoint.Endpoint{Server: reachable.Server},
			change:      func(s *v1alpha1.TargetClusterSpec) { s.Endpoint = inSpec(endpoint.Endpoint{SystemRoots: true}) },
			expectation: expectation{delivery: endpoint.Direct},
		},
		"federation, and the system's CAs": {
			change: func(s *v1alpha1.TargetClusterSpec) {
				s.Endpoint, s.Access = inSpec(endpoint.Endpoint{Server: reachable.Server, SystemRoots: true}), v1alpha1.Access{Type: v1alpha1.AccessNone}
				s.Issue = v1alpha1.Issue{Type: v1alpha1.IssueFederation, Federation: &v1alpha1.FederationIssue{Audience: "tenant-2.example.com"}}
			},
			expectation: expectation{rejected: "set spec.endpoint.certificateAuthorityData", reason: v1alpha1.ReasonNotSupported},
		},
		"no Secret": {
			change:      func(s *v1alpha1.TargetClusterSpec) { s.Access.Kubeconfig.Name = "none" },
			expectation: expectation{rejected: "none", reason: "SecretNotFound"},
		},
		"delivery Proxy": {
			endpoint:    reachable,
			change:      func(s *v1alpha1.TargetClusterSpec) { s.Delivery = v1alpha1.DeliveryProxy },
			expectation: expectation{delivery: endpoint.Proxy},
		},
		"delivery Direct": {
			endpoint:    reachable,
			change:      func(s *v1alpha1.TargetClusterSpec) { s.Delivery = v1alpha1.DeliveryDirect },
			expectation: expectation{delivery: endpoint.Direct},
		},
		"delivery Direct, path": {
			endpoint:    path,
			change:      func(s *v1alpha1.TargetClusterSpec) { s.Delivery = v1alpha1.DeliveryDirect },
			expectation: expectation{rejected: "Direct is not possible", reason: endpoint.ReasonDirectNotPossible},
		},
		"ambient identity": {
			change:      func(s *v1alpha1.TargetClusterSpec) { s.Endpoint, s.Access = inSpec(reachable), ambient },
			expectation: expectation{rejected: "which is not allowed in namespace fleet", reason: endpoint.ReasonAmbientRefused},
		},
		"ambient identity, allowed": {
			namespace:   ambientNamespace,
			change:      func(s *v1alpha1.TargetClusterSpec) { s.Endpoint, s.Access = inSpec(reachable), ambient },
			expectation: expectation{delivery: endpoint.Direct},
		},
		"plugin in the broker": {
			change:      func(s *v1alpha1.TargetClusterSpec) { s.Endpoint, s.Access = inSpec(reachable), inBroker },
			expectation: expectation{rejected: "which is not allowed in namespace fleet", reason: endpoint.ReasonAmbientRefused},
		},
		"plugin in the broker, allowed": {
			namespace:   ambientNamespace,
			change:      func(s *v1alpha1.TargetClusterSpec) { s.Endpoint, s.Access = inSpec(reachable), inBroker },
			expectation: expectation{delivery: endpoint.Direct},
		},
		"token of another audience": {
			change: func(s *v1alpha1.TargetClusterSpec) {
				s.Endpoint, s.Access = inSpec(reachable), v1alpha1.Access{Type: v1alpha1.AccessNone}
				s.Issue = v1alpha1.Issue{Type: v1alpha1.IssueFederation, Federation: &v1alpha1.FederationIssue{Audience: "tenant-1.example.com"}}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.namespace == "" {
				test.namespace = namespace
			}
			tc := targetCluster(test.namespace, strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(strings.ToLower(name)))
			secret := kubeconfigWith(t, test.endpoint)
			if test.change != nil {
				test.change(&tc.Spec)
			}
			testTargetCluster(t, tc, secret, test.expectation)
		})
	}
}

// TestSamples tests each TargetCluster of the samples and of the tests of keyferry inject. Their
// Secrets do not exist.
func TestSamples(t *testing.T) {
	placeholder, authority := "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==", base64.StdEncoding.EncodeToString([]byte(endpointtest.CertificateAuthority))
	for _, pattern := range []string{"config/samples/targetcluster-*.yaml", "cli/testdata/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(moduleroot.Dir(), pattern))
		if err != nil || len(files) == 0 {
			t.Fatal("no samples", err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			must(t, err)
			for n, document := range strings.Split(strings.ReplaceAll(string(text), placeholder, authority), "\n---\n") {
				tc := &v1alpha1.TargetCluster{}
				if yaml.UnmarshalStrict([]byte(document), tc) != nil || tc.Kind != "TargetCluster" {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d", filepath.Base(file), n), func(t *testing.T) {
					tc.Namespace, tc.Name = namespace, fmt.Sprintf("%s-%d", strings.TrimSuffix(filepath.Base(file), ".yaml"), n)
					controller, others := answers(t, tc, nil)
					agree(t, controller, others)
				})
			}
		}
	}
}

func testTargetCluster(t *testing.T, tc *v1alpha1.TargetCluster, secret []byte, e expectation) {
	t.Helper()
	controller, others := answers(t, tc, secret)
	e.check(t, "controller", controller)
	agree(t, controller, others)
}

// answers creates a TargetCluster and its Secret, and returns the result of each component. The CLI
// is also run offline, if it needs neither the Secret nor a ClusterProfile.
func answers(t *testing.T, tc *v1alpha1.TargetCluster, secret []byte) (controller answer, others map[string]answer) {
	t.Helper()
	if access := tc.Spec.Access.Kubeconfig; access != nil && access.Name == tc.Name {
		must(t, world.client.Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: tc.Namespace, Name: access.Name},
			Data:       map[string][]byte{"value": secret},
		}))
	}
	must(t, world.client.Create(t.Context(), tc))
	name := client.ObjectKeyFromObject(tc)
	controller = ofController(t, name)
	others = map[string]answer{
		"webhook": ofWebhook(t, injector.AnnotationCluster, name),
		"command": ofCommand(t, injector.AnnotationCluster, name),
	}
	if tc.Spec.Issue.Type != v1alpha1.IssueFederation { // the broker issues nothing then
		others["broker"] = ofBroker(t, wire.TargetClusterPath(name.Namespace, name.Name))
	}
	if secret, _ := resolve.AccessSecret(tc.Spec.Access); secret == "" && tc.Spec.Endpoint != nil && tc.Spec.ClusterProfile == nil {
		tc.APIVersion, tc.Kind = v1alpha1.GroupVersion.String(), "TargetCluster"
		text, err := yaml.Marshal(tc)
		must(t, err)
		file := filepath.Join(t.TempDir(), "target.yaml")
		must(t, os.WriteFile(file, text, 0o600))
		others["command, offline"] = ofCommand(t, injector.AnnotationCluster, name, "--target-cluster", file)
	}
	return controller, others
}

func testClusterProfile(t *testing.T, profile *inventory.ClusterProfile, e expectation) {
	t.Helper()
	status := profile.Status
	must(t, world.client.Create(t.Context(), profile))
	profile.Status = status
	must(t, world.client.Status().Update(t.Context(), profile))
	name := client.ObjectKeyFromObject(profile)
	webhook := ofWebhook(t, injector.AnnotationClusterProfile, name)
	e.check(t, "webhook", webhook)
	agree(t, webhook, map[string]answer{
		"command": ofCommand(t, injector.AnnotationClusterProfile, name),
		"broker":  ofBroker(t, wire.ClusterProfilePath(name.Namespace, name.Name)),
	})
}

// caseName contains the name of a case and of its object.
type caseName struct{ of, object string }

func numbered(cases map[string]endpointtest.Case, prefix string) map[caseName]endpointtest.Case {
	named := make(map[caseName]endpointtest.Case)
	for i, name := range slices.Sorted(maps.Keys(cases)) {
		named[caseName{name, fmt.Sprintf("%s-%d", prefix, i)}] = cases[name]
	}
	return named
}

// targetCluster returns a TargetCluster whose access credential, a kubeconfig in the Secret with
// the same name, is issued to Pods unchanged.
func targetCluster(namespace, name string) *v1alpha1.TargetCluster {
	return &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: name}},
			Issue:  v1alpha1.Issue{Type: v1alpha1.IssueAccess},
		},
	}
}

func inSpec(e endpoint.Endpoint) *v1alpha1.Endpoint {
	spec := &v1alpha1.Endpoint{Server: e.Server, CertificateAuthorityData: e.CertificateAuthority, TLSServerName: e.TLSServerName, ProxyURL: e.ProxyURL}
	if e.SystemRoots {
		spec.WellKnownCACertificates = v1alpha1.WellKnownCACertificatesSystem
	}
	return spec
}

func kubeconfigWith(t *testing.T, e endpoint.Endpoint) []byte {
	t.Helper()
	text, err := clientcmd.Write(clientcmdapi.Config{
		CurrentContext: "target",
		Contexts:       map[string]*clientcmdapi.Context{"target": {Cluster: "target", AuthInfo: "robot"}},
		Clusters: map[string]*clientcmdapi.Cluster{"target": {
			Server: e.Server, CertificateAuthorityData: e.CertificateAuthority, TLSServerName: e.TLSServerName, ProxyURL: e.ProxyURL,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"robot": {Token: "token"}},
	})
	must(t, err)
	return text
}

func clusterProfile(namespace, name, provider string, e endpoint.Endpoint) *inventory.ClusterProfile {
	return &inventory.ClusterProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       inventory.ClusterProfileSpec{ClusterManager: inventory.ClusterManager{Name: "test"}},
		Status: inventory.ClusterProfileStatus{AccessProviders: []inventory.AccessProvider{{Name: provider, Cluster: clientcmdv1.Cluster{
			Server: e.Server, CertificateAuthorityData: e.CertificateAuthority, TLSServerName: e.TLSServerName, ProxyURL: e.ProxyURL,
		}}}},
	}
}
