package ownaddresses

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/testenv"
)

var server *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { server = cfg }))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOwnAddressesAreRefused reads the addresses with the rights of config/default, and no others.
func TestOwnAddressesAreRefused(t *testing.T) {
	const namespace = "keyferry-system"
	admin, err := client.New(server, client.Options{Scheme: scheme.Scheme})
	must(t, err)
	must(t, admin.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	manifests, err := os.ReadFile("../../config/default/addresses.yaml")
	must(t, err)
	for _, text := range strings.Split(string(manifests), "\n---\n") {
		var kind metav1.TypeMeta
		must(t, yaml.Unmarshal([]byte(text), &kind))
		object := map[string]client.Object{"Role": new(rbacv1.Role), "RoleBinding": new(rbacv1.RoleBinding)}[kind.Kind]
		must(t, yaml.UnmarshalStrict([]byte(text), object))
		must(t, admin.Create(t.Context(), object))
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "keyferry-broker"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ExternalIPs: []string{"192.0.2.8"}, Ports: []corev1.ServicePort{{Port: 443}},
	}}
	must(t, admin.Create(t.Context(), service))
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.9"}, {Hostname: "broker.example.com"}}
	must(t, admin.Status().Update(t.Context(), service))
	for name, hostNetwork := range map[string]bool{"broker": false, "webhook": true} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PodSpec{
			HostNetwork: hostNetwork,
			Containers:  []corev1.Container{{Name: "a", Image: "a", Ports: []corev1.ContainerPort{{ContainerPort: 9443}}}},
		}}
		must(t, admin.Create(t.Context(), pod))
		ips := map[bool][]corev1.PodIP{false: {{IP: "10.1.0.7"}, {IP: "fd01::7"}}, true: {{IP: "192.0.2.7"}}}[hostNetwork]
		pod.Status.PodIP, pod.Status.PodIPs = ips[0].IP, ips
		must(t, admin.Status().Update(t.Context(), pod))
	}
	var slice discoveryv1.EndpointSlice
	must(t, admin.Get(t.Context(), apiServer, &slice))
	behind := netip.AddrPortFrom(netip.MustParseAddr(slice.Endpoints[0].Addresses[0]), uint16(*slice.Ports[0].Port))

	var front corev1.Service
	must(t, admin.Get(t.Context(), apiServer, &front))
	clusterIP := front.Spec.ClusterIP

	for _, component := range []string{"broker", "controller"} {
		t.Run(component, func(t *testing.T) {
			// A name, as AKS can set it.
			t.Setenv("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
			account := rest.CopyConfig(server)
			account.Impersonate.UserName = "system:serviceaccount:" + namespace + ":keyferry-" + component
			reader, err := client.New(account, client.Options{Scheme: scheme.Scheme})
			must(t, err)
			policy := endpoint.Policy{Own: new(endpoint.Own)}
			must(t, New(reader, namespace, policy.Own).Read(t.Context()))
			for at, refused := range map[string]bool{
				clusterIP + ":443": true, clusterIP + ":6443": true, netip.AddrPortFrom(netip.MustParseAddr(service.Spec.ClusterIP), 443).String(): true,
				"10.1.0.7:8080": true, "[fd01::7]:8443": true, "[::ffff:10.1.0.7]:8080": true, "[64:ff9b::a01:7]:8080": true,
				"192.0.2.7:9443": true, "192.0.2.7:30443": false, "192.0.2.8:443": true, "192.0.2.8:6443": false, "192.0.2.9:443": true, "192.0.2.9:6443": false, "10.1.0.8:443": false, "203.0.113.7:6443": false,
				behind.String(): true,
			} {
				if err := policy.CheckAddrPort(netip.MustParseAddrPort(at)); (err != nil) != refused {
					t.Errorf("%s: %v", at, err)
				}
			}
		})
	}
}

// TestLastAddressesOfTheAPIServerStay: while it has none, because it starts, the last ones are
// refused.
func TestLastAddressesOfTheAPIServerStay(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	name := metav1.ObjectMeta{Namespace: apiServer.Namespace, Name: apiServer.Name}
	port := int32(6443)
	service := &corev1.Service{ObjectMeta: name, Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.1", "fd02::1"}}}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: name, Ports: []discoveryv1.EndpointPort{{Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"203.0.113.1"}}},
	}
	c := fake.NewClientBuilder().WithObjects(service, slice).Build()
	policy := endpoint.Policy{Own: new(endpoint.Own)}
	r := New(c, "", policy.Own)
	refused := func(want ...string) {
		t.Helper()
		must(t, r.Read(t.Context()))
		for _, at := range []string{"10.96.0.1:443", "[fd02::1]:443", "203.0.113.1:6443", "203.0.113.2:6443"} {
			if err := policy.CheckAddrPort(netip.MustParseAddrPort(at)); (err != nil) != slices.Contains(want, at) {
				t.Errorf("%s: %v", at, err)
			}
		}
	}
	all := []string{"10.96.0.1:443", "[fd02::1]:443", "203.0.113.1:6443"}
	refused(all...)
	slice.Endpoints = nil
	must(t, c.Update(t.Context(), slice))
	refused(all...)
	must(t, c.Delete(t.Context(), slice))
	must(t, c.Delete(t.Context(), service))
	refused(all...)
	slice.ResourceVersion, slice.Endpoints = "", []discoveryv1.Endpoint{{Addresses: []string{"203.0.113.2"}}}
	must(t, c.Create(t.Context(), slice))
	refused("10.96.0.1:443", "[fd02::1]:443", "203.0.113.2:6443")
}
