package issuer_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
)

// Whether there are ClusterProfiles at all is not known before they are read, and may change while
// this process runs.
func TestClusterProfilesOfAnAPIServer(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := inventory.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(serverConfig, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	file := providerFile(t, "own")
	i, err := issuer.New(issuer.Config{Clusters: c, Secrets: c, Policy: endpoint.Policy{AllowLocal: true, AmbientNamespaces: []string{"default"}},
		Providers: func() *clusterprofile.ProviderFile { return file }})
	if err != nil {
		t.Fatal(err)
	}
	name := types.NamespacedName{Namespace: "default", Name: "tenant-1"}
	_, err = i.ClusterProfile(t.Context(), name)
	checkInvalid(t, err, resolve.ReasonClusterProfileNotFound, "has no CustomResourceDefinition clusterprofiles.multicluster.x-k8s.io: install it")

	installClusterProfiles(t)
	_, err = i.ClusterProfile(t.Context(), name)
	checkInvalid(t, err, resolve.ReasonClusterProfileNotFound, "ClusterProfile default/tenant-1 does not exist")

	profile := &inventory.ClusterProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
		Spec:       inventory.ClusterProfileSpec{ClusterManager: inventory.ClusterManager{Name: "test"}},
	}
	if err := c.Create(t.Context(), profile); err != nil {
		t.Fatal(err)
	}
	extensions := []clientcmdv1.NamedExtension{
		{Name: "client.authentication.k8s.io/exec", Extension: runtime.RawExtension{Raw: []byte(`{"id":"tenant-1"}`)}},
		{Name: "clusterprofiles.multicluster.x-k8s.io/exec/additional-envs", Extension: runtime.RawExtension{Raw: []byte(`{"CLUSTER":"tenant-1"}`)}},
	}
	profile.Status.AccessProviders = []inventory.AccessProvider{{Name: "here", Cluster: clientcmdv1.Cluster{
		Server: serverConfig.Host, CertificateAuthorityData: serverConfig.CAData, Extensions: extensions,
	}}}
	update(t, c, profile)

	cluster, err := i.ClusterProfile(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := i.IssueFor(t.Context(), cluster, web)
	if err != nil {
		t.Fatal(err)
	}
	got := saw(t, issued.Token)
	if got.Env != "tenant-1" || string(got.Config) != `{"id":"tenant-1"}` || got.Server != serverConfig.Host {
		t.Errorf("the plugin saw %+v (config %s)", got, got.Config)
	}

	// KEP-5339 makes the arguments an array, and the CRD of today's version lets an extension be an
	// object only.
	profile.Status.AccessProviders[0].Cluster.Extensions = append(slices.Clone(extensions), clientcmdv1.NamedExtension{
		Name: "clusterprofiles.multicluster.x-k8s.io/exec/additional-args", Extension: runtime.RawExtension{Raw: []byte(`["more"]`)},
	})
	if err := c.Status().Update(t.Context(), profile); !apierrors.IsInvalid(err) {
		t.Errorf("the API server takes an array by now (%v): fix docs/clusterprofile.md", err)
	}
}

func update(t *testing.T, c client.Client, profile *inventory.ClusterProfile) {
	t.Helper()
	if err := c.Status().Update(t.Context(), profile); err != nil {
		t.Fatal(err)
	}
}

// installClusterProfiles installs the CRD that the module of the API ships, until the test ends.
func installClusterProfiles(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/cluster-inventory-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	options := envtest.CRDInstallOptions{Paths: []string{filepath.Join(strings.TrimSpace(string(out)), "config", "crd", "bases", "multicluster.x-k8s.io_clusterprofiles.yaml")}}
	if _, err := envtest.InstallCRDs(serverConfig, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := envtest.UninstallCRDs(serverConfig, options); err != nil {
			t.Error(err)
		}
	})
}
