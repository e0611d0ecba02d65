package issuer_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

// run is what a plugin saw; it is in the token that it prints.
type run struct {
	Args   []string
	Env    string
	Server string
	Config json.RawMessage
}

// actAsPlugin is this program as a plugin.
func actAsPlugin() {
	var asked struct {
		Spec struct {
			Cluster struct {
				Server string          `json:"server"`
				Config json.RawMessage `json:"config"`
			} `json:"cluster"`
		} `json:"spec"`
	}
	_ = json.Unmarshal([]byte(os.Getenv("KUBERNETES_EXEC_INFO")), &asked)
	saw, _ := json.Marshal(run{Args: os.Args[1:], Env: os.Getenv("CLUSTER"), Server: asked.Spec.Cluster.Server, Config: asked.Spec.Cluster.Config})
	_, _ = fmt.Fprintf(os.Stdout, `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":%q,"expirationTimestamp":"2999-01-01T00:00:00Z"}}`,
		base64.RawURLEncoding.EncodeToString(saw))
}

// providerFile has the providers here and pods, which both run this program, and missing, which
// runs none.
func providerFile(t *testing.T, arg string) *clusterprofile.ProviderFile {
	t.Helper()
	provider := func(name, more string) string {
		return fmt.Sprintf(`{"name":%q,%s"profileSourcedCLIArgsPolicy":"Append","profileSourcedEnvVarsPolicy":"Replace","execConfig":{"apiVersion":"client.authentication.k8s.io/v1",
			"command":%q,"args":[%q],"env":[{"name":"ACT_AS","value":"plugin"}],"provideClusterInfo":true}}`, name, more, os.Args[0], arg)
	}
	missing := `{"name":"missing","execConfig":{"apiVersion":"client.authentication.k8s.io/v1","command":"/nowhere"}}`
	file, err := clusterprofile.ParseProviderFile([]byte(`{"providers":[` + provider("here", "") + "," + provider("pods", `"image":"registry.example/p:1",`) + "," + missing + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// inventories is two ClusterProfiles and a TargetCluster for each, and a provider file.
type inventories struct {
	*pair
	file   *clusterprofile.ProviderFile
	events []issuer.Event
}

func newInventories(t *testing.T, access v1alpha1.Access, issue v1alpha1.Issue) *inventories {
	t.Helper()
	f := &inventories{pair: newPair(t, v1alpha1.AccessNCP, issue), file: providerFile(t, "own")}
	for _, name := range []string{"tenant-1", "tenant-2"} {
		cluster := f.objects[types.NamespacedName{Namespace: "fleet", Name: name}].(*v1alpha1.TargetCluster)
		if access.Type != v1alpha1.AccessNCP {
			cluster.Spec.Access = access
		}
		cluster.Spec.Endpoint, cluster.Spec.ClusterProfile = nil, &v1alpha1.ObjectReference{Namespace: "inventory", Name: name}
		f.add(f.newProfile(name, "here", "pods"))
	}
	f.configure(func(*issuer.Config) {})
	return f
}

func (f *inventories) configure(change func(*issuer.Config)) {
	f.t.Helper()
	cfg := issuer.Config{
		Clusters: f.pair, Secrets: f.pair, Policy: endpoint.Policy{AllowLocal: true, AmbientNamespaces: []string{"fleet", "inventory"}}, Now: f.clock,
		Providers: func() *clusterprofile.ProviderFile { return f.file },
		Observe:   func(e issuer.Event) { f.with(func() { f.events = append(f.events, e) }) },
	}
	change(&cfg)
	var err error
	if f.issuer, err = issuer.New(cfg); err != nil {
		f.t.Fatal(err)
	}
}

// newProfile has the same cluster for each of its access providers, with data of its own for the
// plugin.
func (f *inventories) newProfile(name string, providers ...string) *inventory.ClusterProfile {
	profile := &inventory.ClusterProfile{ObjectMeta: metav1.ObjectMeta{Namespace: "inventory", Name: name, UID: types.UID("profile-" + name), ResourceVersion: "1"}}
	extension := func(name, value string) clientcmdv1.NamedExtension {
		return clientcmdv1.NamedExtension{Name: name, Extension: runtime.RawExtension{Raw: []byte(value)}}
	}
	for _, provider := range providers {
		profile.Status.AccessProviders = append(profile.Status.AccessProviders, inventory.AccessProvider{Name: provider, Cluster: clientcmdv1.Cluster{
			Server:                   f.target.URL,
			CertificateAuthorityData: (&world{target: f.target}).ca(),
			TLSServerName:            "example.com", // which the certificate of httptest is for
			Extensions: []clientcmdv1.NamedExtension{
				extension("client.authentication.k8s.io/exec", fmt.Sprintf(`{"id":%q}`, name)),
				extension("clusterprofiles.multicluster.x-k8s.io/exec/additional-args", fmt.Sprintf(`[%q]`, name)),
				extension("clusterprofiles.multicluster.x-k8s.io/exec/additional-envs", fmt.Sprintf(`{"CLUSTER":%q}`, name)),
			},
		}})
	}
	return profile
}

func (f *inventories) profile() *inventory.ClusterProfile {
	return f.objects[types.NamespacedName{Namespace: "inventory", Name: "tenant-1"}].(*inventory.ClusterProfile)
}

func saw(t *testing.T, token string) run {
	t.Helper()
	decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "Bearer "))
	var got run
	if err == nil {
		err = json.Unmarshal(decoded, &got)
	}
	if err != nil {
		t.Fatalf("%v in the token %q", err, token)
	}
	return got
}

func (r run) check(t *testing.T, f *inventories, name string, args ...string) {
	t.Helper()
	if !slices.Equal(r.Args, args) || r.Env != name || r.Server != f.target.URL || string(r.Config) != fmt.Sprintf(`{"id":%q}`, name) {
		t.Errorf("the plugin of %s saw %+v (config %s), want the arguments %q", name, r, r.Config, args)
	}
}

func execIn(provider string, runIn v1alpha1.RunIn) v1alpha1.Access {
	return v1alpha1.Access{Type: v1alpha1.AccessExec, Exec: &v1alpha1.ExecAccess{Provider: provider, RunIn: runIn}}
}

var issueAccess = v1alpha1.Issue{Type: v1alpha1.IssueAccess}

// Each cluster's plugin gets that cluster's data, however often it runs and whatever another's got.
func TestExecInBroker(t *testing.T) {
	f := newInventories(t, execIn("here", v1alpha1.RunInBroker), issueAccess)
	for range 2 {
		for _, name := range []string{"tenant-1", "tenant-2"} {
			issued := f.issue(name)
			saw(t, issued.Token).check(t, f, name, "own", name)
			if issued.Endpoint.TLSServerName != "example.com" || issued.Delivery != v1alpha1.DeliveryProxy || issued.InPod != nil {
				t.Errorf("issued at %+v by %s", issued.Endpoint, issued.Delivery)
			}
		}
		f.file = providerFile(t, "own") // another one that says the same
	}
}

func TestTokenRequestOverExec(t *testing.T) {
	f := newInventories(t, execIn("here", v1alpha1.RunInBroker), v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
		ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "apps", Name: "deployer"},
	}})
	if issued := f.issue("tenant-2"); issued.Token != "issued" {
		t.Errorf("issued %q", issued.Token)
	}
	saw(t, f.seen[0]).check(t, f, "tenant-2", "own", "tenant-2")
}

func TestExecInPod(t *testing.T) {
	f := newInventories(t, execIn("pods", v1alpha1.RunInPod), issueAccess)
	f.configure(func(c *issuer.Config) { c.Policy.AmbientNamespaces = nil }) // it is the Pod's identity
	issued := f.issue("tenant-1")
	if issued.Token != "" || issued.InPod == nil || string(issued.InPod.Config) != `{"id":"tenant-1"}` {
		t.Errorf("issued %+v", issued)
	}
	if issued.Endpoint.TLSServerName != "example.com" || !strings.HasPrefix(issued.Endpoint.Server, f.target.URL) {
		t.Errorf("issued at %+v", issued.Endpoint)
	}
	f.with(func() { f.now = f.now.Add(time.Minute) })
	if again := f.issue("tenant-1"); again.IssuedAt != issued.IssuedAt {
		t.Error("what did not change is told as news")
	}
	resolution, err := f.issuer.Resolve(t.Context(), f.cluster())
	if err != nil || resolution.Access != nil {
		t.Errorf("access is by %v (%v)", resolution.Access, err)
	}
	_, err = f.issuer.Fresh(t.Context(), f.cluster(), resolution, web)
	checkInvalid(t, err, resolve.ReasonNotSupported, "issues a separate credential in each Pod")
}

// Without a ClusterProfile, a plugin is told of the endpoint in the spec.
func TestExecWithoutProfile(t *testing.T) {
	f := newInventories(t, execIn("here", ""), issueAccess)
	f.cluster().Spec.ClusterProfile = nil
	f.cluster().Spec.Endpoint = &v1alpha1.Endpoint{Server: f.target.URL, CertificateAuthorityData: (&world{target: f.target}).ca()}
	got := saw(t, f.issue("tenant-1").Token)
	if !slices.Equal(got.Args, []string{"own"}) || got.Server != f.target.URL || string(got.Config) != "null" {
		t.Errorf("the plugin saw %+v", got)
	}
}

// Other types of access take the endpoint of the ClusterProfile, before what they know themselves.
func TestEndpointOfProfile(t *testing.T) {
	f := newInventories(t, v1alpha1.Access{Type: v1alpha1.AccessNCP}, issueAccess)
	if issued := f.issue("tenant-1"); issued.Endpoint.TLSServerName != "example.com" || !strings.HasPrefix(issued.Token, "k8s-ncp-v1.") {
		t.Errorf("issued %.12q at %+v", issued.Token, issued.Endpoint)
	}
	f.file = nil
	f.profile().Status.AccessProviders[1].Cluster.Server = "https://other.example.com"
	f.with(func() { f.now = f.now.Add(time.Minute) })
	_, err := f.ask("tenant-1")
	checkInvalid(t, err, resolve.ReasonInvalidClusterProfile, "but the provider file contains none")
}

func TestClusterProfileByItself(t *testing.T) {
	f := newInventories(t, execIn("here", ""), issueAccess)
	cluster, err := f.issuer.ClusterProfile(t.Context(), client.ObjectKeyFromObject(f.profile()))
	if err != nil {
		t.Fatal(err)
	}
	issued, err := f.issuer.IssueFor(t.Context(), cluster, web)
	if err != nil {
		t.Fatal(err)
	}
	saw(t, issued.Token).check(t, f, "tenant-1", "own", "tenant-1")
	if issued.Namespace != "default" {
		t.Errorf("the namespace is %q", issued.Namespace)
	}
	if last := f.events[len(f.events)-1]; last.ClusterProfile != client.ObjectKeyFromObject(f.profile()) || last.TargetCluster.Name != "" {
		t.Errorf("observed %+v", last)
	}

	// The operator prefers the plugin in the Pod where the profile has only that.
	f.add(f.newProfile("tenant-2", "pods"))
	cluster, err = f.issuer.ClusterProfile(t.Context(), types.NamespacedName{Namespace: "inventory", Name: "tenant-2"})
	if err != nil {
		t.Fatal(err)
	}
	if issued, err := f.issuer.IssueFor(t.Context(), cluster, web); err != nil || issued.InPod == nil {
		t.Errorf("issued %+v (%v)", issued, err)
	}

	f.configure(func(c *issuer.Config) { c.Policy.AmbientNamespaces = []string{"fleet"} })
	cluster, err = f.issuer.ClusterProfile(t.Context(), client.ObjectKeyFromObject(f.profile()))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.issuer.IssueFor(t.Context(), cluster, web)
	checkInvalid(t, err, resolve.ReasonAmbientRefused, "ClusterProfile inventory/tenant-1: provider here of the provider file (runIn: Broker) uses")

	_, err = f.issuer.ClusterProfile(t.Context(), types.NamespacedName{Namespace: "inventory", Name: "none"})
	checkInvalid(t, err, resolve.ReasonClusterProfileNotFound, "ClusterProfile inventory/none does not exist")
	f.file = nil
	_, err = f.issuer.ClusterProfile(t.Context(), client.ObjectKeyFromObject(f.profile()))
	checkInvalid(t, err, resolve.ReasonInvalidClusterProfile, "access providers is in the provider file: the profile has here, pods, the provider file has none")
}

// What changes in the profile or in the provider file takes effect within seconds, whatever was
// cached.
func TestInventoriesChanges(t *testing.T) {
	f := newInventories(t, execIn("here", ""), issueAccess)
	saw(t, f.issue("tenant-1").Token).check(t, f, "tenant-1", "own", "tenant-1")
	f.file = providerFile(t, "new")
	saw(t, f.issue("tenant-1").Token).check(t, f, "tenant-1", "new", "tenant-1")
	before := len(f.events)
	f.profile().ResourceVersion = "2"
	f.profile().Status.Conditions = []metav1.Condition{{Type: "ControlPlaneHealthy"}}
	f.with(func() { f.now = f.now.Add(10 * time.Second) })
	if f.issue("tenant-1"); len(f.events) != before {
		t.Error("how the cluster fares made it be issued anew")
	}
	changed := f.newProfile("tenant-2", "here")
	changed.Name, changed.ResourceVersion = "tenant-1", "3"
	f.add(changed)
	f.with(func() { f.now = f.now.Add(10 * time.Second) })
	saw(t, f.issue("tenant-1").Token).check(t, f, "tenant-2", "new", "tenant-2")
}

func checkInvalid(t *testing.T, err error, reason, message string) {
	t.Helper()
	invalid, ok := errors.AsType[*resolve.InvalidError](err)
	if !ok || invalid.Reason != reason || !strings.Contains(err.Error(), message) {
		t.Errorf("got %v, want %s: %s", err, reason, message)
	}
}

func TestInventoriesRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change          func(*inventories)
		reason, message string
	}{
		"no such provider": {func(f *inventories) { f.cluster().Spec.Access.Exec.Provider = "other" }, resolve.ReasonInvalidAccess,
			`spec.access.exec.provider: the provider file has no provider "other": it has here, pods, missing`},
		"no provider file": {func(f *inventories) { f.file = nil }, resolve.ReasonInvalidAccess, "it has none"},
		"Pod without image": {func(f *inventories) { f.cluster().Spec.Access.Exec.RunIn = v1alpha1.RunInPod }, resolve.ReasonInvalidAccess,
			`provider "here" of the provider file has no image`},
		"Pod and TokenRequest": {func(f *inventories) {
			f.cluster().Spec.Access.Exec.RunIn, f.cluster().Spec.Issue = v1alpha1.RunInPod, v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest}
		}, resolve.ReasonNotSupported, "spec.access.exec.runIn Pod"},
		"profile lacks the provider": {func(f *inventories) { f.cluster().Spec.Access.Exec.Provider = "missing" }, resolve.ReasonInvalidClusterProfile,
			`status.accessProviders does not contain "missing": it contains here, pods`},
		"no profile": {func(f *inventories) { f.cluster().Spec.ClusterProfile.Name = "none" }, resolve.ReasonClusterProfileNotFound, "ClusterProfile inventory/none does not exist"},
		"profile without a CA, and no system's": {func(f *inventories) {
			f.profile().Status.AccessProviders[0].Cluster.CertificateAuthorityData = nil
			f.configure(func(c *issuer.Config) { c.SystemRoots = func() ([]byte, error) { return nil, errors.New("none here") } })
		}, resolve.ReasonNoCertificateAuthority, "none here"},
		"address of profile": {func(f *inventories) { f.profile().Status.AccessProviders[0].Cluster.Server = "https://169.254.169.254" }, resolve.ReasonAddressRefused,
			"ClusterProfile inventory/tenant-1: server: 169.254.169.254 is a link-local address"},
		"address beside the profile": {func(f *inventories) {
			f.cluster().Spec.Endpoint = &v1alpha1.Endpoint{Server: "https://169.254.169.254"}
		}, resolve.ReasonAddressRefused,
			"spec.endpoint.server: 169.254.169.254 is a link-local address"},
		"not ambient": {func(f *inventories) {
			f.configure(func(c *issuer.Config) { c.Policy.AmbientNamespaces = []string{"other"} })
		}, resolve.ReasonAmbientRefused,
			"spec.access.exec.runIn Broker uses the broker's own identity"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newInventories(t, execIn("here", v1alpha1.RunInBroker), issueAccess)
			test.change(f)
			_, err := f.ask("tenant-1")
			checkInvalid(t, err, test.reason, test.message)
		})
	}
	t.Run("no program", func(t *testing.T) {
		f := newInventories(t, execIn("missing", ""), issueAccess)
		f.add(f.newProfile("tenant-1", "missing"))
		if _, err := f.ask("tenant-1"); !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "provider missing: unavailable: plugin /nowhere") {
			t.Errorf("got %v", err)
		}
	})
}
