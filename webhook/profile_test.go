package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint/endpointtest"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/internal/use"
)

// providerFile has plugins for Pods, one of which is in no profile, and one for the broker.
const providerFile = `{"providers":[
	{"name":"pods","image":"example.com/plugin:1","execConfig":{"apiVersion":"client.authentication.k8s.io/v1","command":"/plugin","args":["--own"],"provideClusterInfo":true},
		"profileSourcedEnvVarsPolicy":"AppendIfNotExists"},
	{"name":"spare","image":"example.com/plugin:1","execConfig":{"apiVersion":"client.authentication.k8s.io/v1","command":"/plugin"}},
	{"name":"broker","execConfig":{"apiVersion":"client.authentication.k8s.io/v1","command":"/plugin"}}]}`

const profileServer = "https://198.51.100.7:6443"

// clusterProfile creates a ClusterProfile in namespace fleet with access providers of these names.
func clusterProfile(t *testing.T, name string, change func(*clientcmdv1.Cluster), providers ...string) {
	t.Helper()
	profile := &inventory.ClusterProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name},
		Spec:       inventory.ClusterProfileSpec{ClusterManager: inventory.ClusterManager{Name: "test"}},
	}
	must(t, api.client.Create(t.Context(), profile))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), profile)) })
	for _, provider := range providers {
		access := inventory.AccessProvider{Name: provider, Cluster: clientcmdv1.Cluster{Server: profileServer, CertificateAuthorityData: []byte(endpointtest.CertificateAuthority)}}
		change(&access.Cluster)
		profile.Status.AccessProviders = append(profile.Status.AccessProviders, access)
	}
	must(t, api.client.Status().Update(t.Context(), profile))
}

func asItIs(*clientcmdv1.Cluster) {}

// withEnv sets no arguments, because the community's CustomResourceDefinition does not accept an
// extension that is an array.
func withEnv(c *clientcmdv1.Cluster) {
	c.Extensions = []clientcmdv1.NamedExtension{
		{Name: "clusterprofiles.multicluster.x-k8s.io/exec/additional-envs", Extension: runtime.RawExtension{Raw: []byte(`{"TENANT":"t-1"}`)}},
	}
}

// admitted creates a Pod of ServiceAccount shop/web, and returns the created Pod or the error.
func admitted(t *testing.T, annotation, name string) (*corev1.Pod, error) {
	t.Helper()
	p := running("web", pod("shop", annotated(annotation, name)))
	return p, api.client.Create(t.Context(), p, client.DryRunAll)
}

func refresherOf(t *testing.T, p *corev1.Pod) corev1.Container {
	t.Helper()
	i := slices.IndexFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == injector.RefresherContainer })
	if i < 0 {
		t.Fatalf("no sidecar in %+v", p.Spec)
	}
	return p.Spec.InitContainers[i]
}

var shopWeb = types.NamespacedName{Namespace: "shop", Name: "web"}

func used(kind func(types.NamespacedName) use.Object, name string) use.Object {
	return kind(types.NamespacedName{Namespace: "fleet", Name: name})
}

func TestClusterProfileWithPluginInPod(t *testing.T) {
	clusterProfile(t, "paris", withEnv, "pods", "broker")
	grantUse(t, shopWeb, used(use.ClusterProfile, "paris"))
	p, err := admitted(t, "cluster-profile", "fleet/paris")
	must(t, err)
	sidecar := refresherOf(t, p)
	if got := strings.Join(sidecar.Args, " "); !strings.Contains(got, "--cluster-profile=fleet/paris") ||
		!strings.HasSuffix(got, "--plugin --plugin-cluster-info -- /opt/keyferry/plugin/plugin --own") {
		t.Errorf("the sidecar's arguments are %s", got)
	}
	if !slices.Contains(sidecar.Env, corev1.EnvVar{Name: "TENANT", Value: "t-1"}) {
		t.Errorf("the sidecar's environment is %v", sidecar.Env)
	}
	i := slices.IndexFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == injector.PluginVolume })
	if i < 0 {
		t.Fatalf("volumes: %v", p.Spec.Volumes)
	}
	if testenv.Has(testenv.ImageVolume) {
		if image := p.Spec.Volumes[i].Image; image == nil || image.Reference != "example.com/plugin:1" {
			t.Errorf("the plugin's volume is %v", p.Spec.Volumes[i])
		}
	} else if !slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Image == "example.com/plugin:1" }) {
		t.Errorf("no init container copies the plugin: %v", p.Spec.InitContainers)
	}
}

func TestClusterProfileWithPluginInBroker(t *testing.T) {
	clusterProfile(t, "paris", func(c *clientcmdv1.Cluster) { c.TLSServerName = "api" }, "broker")
	grantUse(t, shopWeb, used(use.ClusterProfile, "paris"))
	p, err := admitted(t, "cluster-profile", "fleet/paris")
	must(t, err)
	if got := strings.Join(refresherOf(t, p).Args, " "); !strings.Contains(got, "--cluster-profile=fleet/paris") || !strings.Contains(got, "--delivery=proxy") || strings.Contains(got, "--plugin") {
		t.Errorf("the sidecar's arguments are %s", got)
	}
}

func TestClusterProfileIsRefused(t *testing.T) {
	clusterProfile(t, "granted", asItIs, "other")
	clusterProfile(t, "no-address", func(c *clientcmdv1.Cluster) { c.Server = "http://198.51.100.7" }, "pods")
	clusterProfile(t, "greedy", func(c *clientcmdv1.Cluster) {
		c.Extensions = []clientcmdv1.NamedExtension{{Name: "clusterprofiles.multicluster.x-k8s.io/exec/additional-envs", Extension: runtime.RawExtension{Raw: []byte(`{"LD_PRELOAD":"/x"}`)}}}
	}, "pods")
	for _, name := range []string{"granted", "none", "no-address", "greedy"} {
		grantUse(t, shopWeb, used(use.ClusterProfile, name))
	}
	const noRight = `ServiceAccount shop/web may not use ClusterProfile fleet/forbidden: grant the verb "use" on clusterprofiles.multicluster.x-k8s.io "forbidden" in namespace fleet: ` +
		`keyferry grant --cluster-profile fleet/forbidden shop/web (check with: kubectl auth can-i use clusterprofiles.multicluster.x-k8s.io/forbidden -n fleet --as system:serviceaccount:shop:web)`
	for name, want := range map[string]string{
		"forbidden":  noRight,
		"none":       "there is no ClusterProfile fleet/none: create it",
		"granted":    "access providers is in the provider file: the profile has other, the provider file has pods, spare, broker",
		"no-address": `cluster.server: has the scheme "http"`,
		"greedy":     `LD_PRELOAD`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := admitted(t, "cluster-profile", "fleet/"+name)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), deniedBy+"annotation keyferry.dev/cluster-profile: ") {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	t.Run("shown for templates", func(t *testing.T) {
		c, warned := recordingClient(t)
		d := deployment("shop", nil)
		d.Spec.Template = template(annotated("cluster-profile", "fleet/forbidden"))
		must(t, c.Create(t.Context(), d, client.DryRunAll))
		if got := warned.take(); !strings.Contains(got, "its Pods will be denied") {
			t.Errorf("warned of %q", got)
		}
	})
}

// TestClusterProfileThatTheBrokerRejects checks that Pods are denied if the broker would issue no
// credential for them.
func TestClusterProfileThatTheBrokerRejects(t *testing.T) {
	file, err := clusterprofile.ParseProviderFile([]byte(providerFile))
	must(t, err)
	for name, test := range map[string]struct {
		provider string
		change   func(*clientcmdv1.Cluster)
		want     string
	}{
		"ambient identity": {"broker", asItIs, "AmbientRefused: ClusterProfile fleet/paris: provider broker of the provider file (runIn: Broker) uses the broker's own identity"},
		"link-local":       {"pods", func(c *clientcmdv1.Cluster) { c.Server = "https://169.254.169.254" }, "AddressRefused: ClusterProfile fleet/paris: status.accessProviders[pods].cluster.server: 169.254.169.254 is a link-local address"},
		"loopback":         {"pods", func(c *clientcmdv1.Cluster) { c.Server = "https://127.0.0.1:6443" }, "AddressRefused: "},
		"loopback proxy":   {"pods", func(c *clientcmdv1.Cluster) { c.ProxyURL = "http://127.0.0.1:3128" }, "AddressRefused: ClusterProfile fleet/paris: status.accessProviders[pods].cluster.proxy-url: "},
		"no PEM":           {"pods", func(c *clientcmdv1.Cluster) { c.CertificateAuthorityData = []byte("PEM") }, "InvalidEndpoint: ClusterProfile fleet/paris: status.accessProviders[pods].cluster.certificate-authority-data: contains text that is not PEM"},
		"ftp proxy":        {"pods", func(c *clientcmdv1.Cluster) { c.ProxyURL = "ftp://u:planted@proxy" }, `InvalidEndpoint: ClusterProfile fleet/paris: status.accessProviders[pods].cluster.proxy-url: has the scheme "ftp"`},
	} {
		t.Run(name, func(t *testing.T) {
			profile := &inventory.ClusterProfile{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "paris"}}
			profile.Status.AccessProviders = []inventory.AccessProvider{{Name: test.provider, Cluster: clientcmdv1.Cluster{
				Server: profileServer, CertificateAuthorityData: []byte(endpointtest.CertificateAuthority),
			}}}
			test.change(&profile.Status.AccessProviders[0].Cluster)
			h := testHandler(t, func(cfg *Config) {
				cfg.Live = oneProfile{profile: profile}
				cfg.Providers = func() *clusterprofile.ProviderFile { return file }
			})
			got := ask(t, h, podReview(t, pod("", annotated("cluster-profile", "fleet/paris"))))
			if got.Allowed || !strings.Contains(got.Result.Message, test.want) || strings.Contains(got.Result.Message, "planted") {
				t.Errorf("got %+v, want a denial with %q", got.Result, test.want)
			}
		})
	}
}

type oneProfile struct {
	client.Reader
	profile *inventory.ClusterProfile
}

func (o oneProfile) Get(_ context.Context, _ client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	profile, ok := object.(*inventory.ClusterProfile)
	if !ok {
		return fmt.Errorf("no %T is read", object)
	}
	o.profile.DeepCopyInto(profile)
	return nil
}

// TestClusterProfilesThatAreNotKnown: the CustomResourceDefinition is not installed.
func TestClusterProfilesThatAreNotKnown(t *testing.T) {
	h := testHandler(t, func(cfg *Config) { cfg.Live = notKnown{} })
	got := ask(t, h, podReview(t, pod("", annotated("cluster-profile", "fleet/paris"))))
	if got.Allowed || !strings.Contains(got.Result.Message, "this cluster has no ClusterProfiles") {
		t.Errorf("got %+v", got.Result)
	}
}

type notKnown struct{ client.Reader }

func (notKnown) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: inventory.Group, Kind: "ClusterProfile"}}
}

// execCluster creates a TargetCluster in namespace fleet whose credentials a plugin issues.
func execCluster(t *testing.T, name, provider string, runIn v1alpha1.RunIn, profile string) {
	t.Helper()
	tc := &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessExec, Exec: &v1alpha1.ExecAccess{Provider: provider, RunIn: runIn}},
			Issue:  v1alpha1.Issue{Type: v1alpha1.IssueAccess},
		},
	}
	if profile == "" {
		tc.Spec.Endpoint = &v1alpha1.Endpoint{Server: "https://203.0.113.7:6443"}
	} else {
		tc.Spec.ClusterProfile = &v1alpha1.ObjectReference{Namespace: "fleet", Name: profile}
	}
	must(t, api.client.Create(t.Context(), tc))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), tc)) })
	tc.Status = ready()
	must(t, api.client.Status().Update(t.Context(), tc))
}

func TestTargetClusterWithPlugin(t *testing.T) {
	clusterProfile(t, "paris", withEnv, "pods")
	grantUse(t, shopWeb, used(use.ClusterProfile, "paris"))
	for name, test := range map[string]struct {
		provider string
		runIn    v1alpha1.RunIn
		profile  string
		want     string // the end of the sidecar's arguments, or what the denial says
		denied   bool
	}{
		"in the broker":     {"pods", v1alpha1.RunInBroker, "", "", false},
		"in the Pod":        {"pods", v1alpha1.RunInPod, "", "-- /opt/keyferry/plugin/plugin --own", false},
		"with a profile":    {"pods", v1alpha1.RunInPod, "paris", "-- /opt/keyferry/plugin/plugin --own", false},
		"no such provider":  {"other", v1alpha1.RunInPod, "", `spec.access.exec.provider: the provider file has no provider "other"`, true},
		"without an image":  {"broker", v1alpha1.RunInPod, "", `provider "broker" of the provider file has no image`, true},
		"not of profile":    {"spare", v1alpha1.RunInPod, "paris", `status.accessProviders does not contain "spare"`, true},
		"profile not given": {"pods", v1alpha1.RunInBroker, "other", "ServiceAccount shop/web may not use ClusterProfile fleet/other", true},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := "exec-" + strings.ReplaceAll(strings.ToLower(name), " ", "-")
			execCluster(t, cluster, test.provider, test.runIn, test.profile)
			grant(t, shopWeb, cluster)
			p, err := admitted(t, "cluster", "fleet/"+cluster)
			if test.denied {
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), deniedBy+"annotation keyferry.dev/cluster: ") {
					t.Errorf("got %v, want %q", err, test.want)
				}
				return
			}
			must(t, err)
			sidecar := refresherOf(t, p)
			if got := strings.Join(sidecar.Args, " "); !strings.HasSuffix(got, test.want) || !strings.Contains(got, "--target=fleet/"+cluster) ||
				strings.Contains(got, "--plugin") != (test.runIn == v1alpha1.RunInPod) {
				t.Errorf("the sidecar's arguments are %s", got)
			}
			if got := slices.Contains(sidecar.Env, corev1.EnvVar{Name: "TENANT", Value: "t-1"}); got != (test.profile != "") {
				t.Errorf("the sidecar's environment is %v", sidecar.Env)
			}
		})
	}
}

// TestStripKeepsPlugins checks that the cache keeps the fields about plugins.
func TestStripKeepsPlugins(t *testing.T) {
	whole := tenant1(ready())
	whole.Spec.ClusterProfile = &v1alpha1.ObjectReference{Namespace: "fleet", Name: "paris"}
	whole.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessExec, Exec: &v1alpha1.ExecAccess{Provider: "pods", RunIn: v1alpha1.RunInPod}}
	stripped, err := Strip(whole)
	must(t, err)
	lean, ok := stripped.(*v1alpha1.TargetCluster)
	if !ok {
		t.Fatalf("a %T", stripped)
	}
	got, err := json.Marshal(lean.Spec)
	must(t, err)
	if want := `"clusterProfile":{"namespace":"fleet","name":"paris"}`; !strings.Contains(string(got), want) {
		t.Errorf("no %s in %s", want, got)
	}
	if want := fmt.Sprintf(`"exec":{"provider":"pods","runIn":%q}`, v1alpha1.RunInPod); !strings.Contains(string(got), want) {
		t.Errorf("no %s in %s", want, got)
	}
}
