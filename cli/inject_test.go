package cli

import (
	"bytes"
	"encoding/base64"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint/endpointtest"
	"github.com/keyferry/keyferry/injector"
)

var update = flag.Bool("update", false, "write the golden files anew")

// keyferry runs the command without the kubeconfig of the user who runs the tests.
func keyferry(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	var out, errOut bytes.Buffer
	streams := genericiooptions.IOStreams{In: strings.NewReader(stdin), Out: &out, ErrOut: &errOut}
	code = Run(t.Context(), streams, append([]string{"keyferry"}, args...))
	return code, out.String(), errOut.String()
}

func TestInjectGolden(t *testing.T) {
	image := []string{"--refresher-image=ghcr.io/keyferry/refresher:v0.1.0", "--target-cluster=testdata/tenant-1.yaml"}
	tests := map[string]struct {
		args []string
		code int
	}{
		"stream.yaml":        {args: []string{"--env-from-file"}},
		"kinds.yaml":         {args: []string{"--env-from-file", "--restart-spread=30s"}},
		"indented.yaml":      {},
		"list.yaml":          {},
		"pretty.json":        {},
		"compact.json":       {},
		"untouched.yaml":     {},
		"aliases.yaml":       {},
		"warnings.yaml":      {},
		"unknown-kinds.yaml": {},
		"unread.yaml":        {},
		"misplaced.yaml":     {code: ExitFailed},
		"wrong.yaml":         {code: ExitFailed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", "inject", name)
			code, stdout, stderr := keyferry(t, "", append(append([]string{"inject", "-f", file}, image...), test.args...)...)
			if code != test.code {
				t.Errorf("got exit code %d, want %d", code, test.code)
			}
			// The version of a test's binary differs from commit to commit.
			golden(t, file+".golden", withoutVersion(stdout))
			golden(t, file+".stderr.golden", stderr)
			if test.code != ExitOK {
				return
			}
			code, again, stderr := keyferry(t, stdout, append(append([]string{"inject", "-f", "-"}, image...), test.args...)...)
			if code != ExitOK || again != stdout {
				t.Errorf("injecting it again gives exit code %d, %s%s", code, stderr, again)
			}
		})
	}
}

func withoutVersion(text string) string {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if before, after, ok := strings.Cut(line, `"version`); ok {
			_, after, _ = strings.Cut(after, `"clusters`)
			lines[i] = before + `"clusters` + after
		}
	}
	return strings.Join(lines, "")
}

// golden compares with a file, which is not there if nothing is expected.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		_ = os.Remove(file)
		if got != "" {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s differs (go test -update writes it anew); got:\n%s", file, got)
	}
}

func TestInjectUntouchedIsTheSame(t *testing.T) {
	want, err := os.ReadFile("testdata/inject/untouched.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, got, _ := keyferry(t, string(want), "inject", "-f", "-", "--target-cluster=testdata/tenant-1.yaml"); got != string(want) {
		t.Errorf("got:\n%s", got)
	}
}

func TestInjectSeveralFiles(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for file, text := range map[string]string{a: "a: 1", b: "b: 2\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	code, got, _ := keyferry(t, "---\nc: 3\n", "inject", "-f", a, "-f", b+",-", "--target-cluster=testdata/tenant-1.yaml")
	if want := "a: 1\n---\nb: 2\n---\nc: 3\n"; code != ExitOK || got != want {
		t.Errorf("got exit code %d, %q, want %q", code, got, want)
	}
}

func TestInjectForAProxy(t *testing.T) {
	code, got, stderr := keyferry(t, "", "inject", "-f", "testdata/inject/list.yaml", "--target-cluster=testdata/proxied.yaml")
	if code != ExitOK || !strings.Contains(got, "--delivery=proxy") || !strings.Contains(got, "do not support a proxyURL") {
		t.Errorf("got exit code %d, %s%s", code, stderr, got)
	}
}

func TestInjectSeveralClusters(t *testing.T) {
	file := filepath.Join(t.TempDir(), "targets.yaml")
	tenant, err := os.ReadFile("testdata/tenant-1.yaml")
	if err != nil {
		t.Fatal(err)
	}
	second := strings.Replace(string(tenant), "name: tenant-1", "name: tenant-2", 1) + "  defaultNamespace: team-a\n"
	if err := os.WriteFile(file, []byte(string(tenant)+"---\n"+second), 0o600); err != nil {
		t.Fatal(err)
	}
	pod := func(clusters string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","annotations":{"keyferry.dev/clusters":"` + clusters + `"}},"spec":{"containers":[{"name":"c"}]}}`
	}
	code, got, stderr := keyferry(t, pod("fleet/tenant-1,fleet/tenant-2"), "inject", "-f", "-", "--target-cluster="+file)
	if code != ExitOK || !strings.Contains(got, `"--cluster=fleet/tenant-1@127.0.0.1:16444/default","--cluster=fleet/tenant-2@127.0.0.1:16445/team-a"`) {
		t.Errorf("got exit code %d, %s%s", code, stderr, got)
	}
	code, _, stderr = keyferry(t, pod("fleet/tenant-1,fleet/tenant-3"), "inject", "-f", "-", "--target-cluster="+file)
	if code != ExitFailed || !strings.Contains(stderr, "annotation keyferry.dev/clusters: ") || !strings.Contains(stderr, "has no TargetCluster fleet/tenant-3") {
		t.Errorf("got exit code %d, %s", code, stderr)
	}
}

func TestInjectConcatenatedJSON(t *testing.T) {
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"NAME","annotations":{"keyferry.dev/cluster":"fleet/tenant-1"}},"spec":{"containers":[{"name":"main"}]}}`
	stdin := strings.ReplaceAll(pod, "NAME", "a") + strings.ReplaceAll(pod, "NAME", "b") + "\n{}\n"
	code, got, stderr := keyferry(t, stdin, "inject", "-f", "-", "--target-cluster=testdata/tenant-1.yaml")
	if code != ExitOK || strings.Count(got, `"name":"keyferry-refresher"`) != 2 || strings.Contains(got, "---") || !strings.HasSuffix(got, "\n{}\n") {
		t.Errorf("got exit code %d, %s%s", code, got, stderr)
	}
}

func TestInjectMissingSeparator(t *testing.T) {
	code, got, stderr := keyferry(t, "{a: 1}\n{b: 2}\n", "inject", "-f", "-", "--target-cluster=testdata/tenant-1.yaml")
	if code != ExitFailed || got != "" || !strings.Contains(stderr, "-: document 1: ") {
		t.Errorf("got exit code %d, %q, %q", code, got, stderr)
	}
}

func TestInjectFails(t *testing.T) {
	const pod = "testdata/inject/list.yaml"
	tests := map[string]struct {
		args []string
		code int
		want string // on standard error
	}{
		"no file":                {[]string{"inject"}, ExitUsage, `"filename" not set`},
		"unknown flag":           {[]string{"inject", "--nope"}, ExitUsage, "--nope"},
		"unknown command":        {[]string{"injcet"}, ExitUsage, "injcet"},
		"argument":               {[]string{"inject", "x"}, ExitUsage, "x"},
		"missing file":           {[]string{"inject", "-f", "nope.yaml", "--target-cluster=testdata/tenant-1.yaml"}, ExitFailed, "nope.yaml"},
		"missing target":         {[]string{"inject", "-f", pod, "--target-cluster=nope.yaml"}, ExitFailed, "nope.yaml"},
		"no TargetCluster in it": {[]string{"inject", "-f", pod, "--target-cluster=" + pod}, ExitFailed, "the file contains no TargetCluster (keyferry.dev/v1alpha1)"},
		"TargetCluster misspelt": {[]string{"inject", "-f", pod, "--target-cluster=testdata/misspelt.yaml"}, ExitFailed, `"endpiont"`},
		"no endpoint":            {[]string{"inject", "-f", pod, "--target-cluster=testdata/no-endpoint.yaml"}, ExitFailed, "spec.endpoint.server: is empty, and a Secret cannot be read offline"},
		"no cluster":             {[]string{"inject", "-f", pod, "--server=http://127.0.0.1:1"}, ExitFailed, "--target-cluster"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := keyferry(t, "", test.args...)
			if code != test.code || !strings.Contains(stderr, test.want) || stdout != "" {
				t.Errorf("got exit code %d, %q, %q; want %d and %q", code, stdout, stderr, test.code, test.want)
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"--version", "\n"}, {"--help", "Exit codes:"}, {"inject --help", "Exit codes:"}, {"completion bash", "keyferry"},
	} {
		if code, stdout, stderr := keyferry(t, "", strings.Fields(test.args)...); code != ExitOK || !strings.Contains(stdout, test.want) || stderr != "" {
			t.Errorf("%s: got exit code %d, %q, %q", test.args, code, stdout, stderr)
		}
	}
}

func TestTargetsOfServer(t *testing.T) {
	objects := []client.Object{
		targetCluster(t, "good", "status: {observedGeneration: 2, endpoint: 'https://a:6443', delivery: Direct, conditions: [{type: Resolved, status: 'True'}]}"),
		targetCluster(t, "silent", "status: {observedGeneration: 2, endpoint: 'https://a:6443', delivery: Direct, "+
			"conditions: [{type: Resolved, status: 'True'}, {type: Reachable, status: 'False', message: no route}]}"),
		targetCluster(t, "stale", "status: {observedGeneration: 1, endpoint: 'https://a:6443', delivery: Direct, conditions: [{type: Resolved, status: 'True'}]}"),
		targetCluster(t, "fresh", ""),
		targetCluster(t, "broken", "status: {observedGeneration: 2, conditions: [{type: Resolved, status: 'False', message: Secret fleet/k does not exist}]}"),
	}
	find := fleetOf(t, nil, objects...)
	for name, want := range map[string]string{
		"good":    "",
		"silent":  "",
		"stale":   "not resolved yet",
		"fresh":   "not resolved yet",
		"broken":  "Secret fleet/k does not exist",
		"missing": "there is no TargetCluster fleet/missing",
	} {
		t.Run(name, func(t *testing.T) {
			target, warnings, err := find(t.Context(), injector.Annotations{Cluster: types.NamespacedName{Namespace: "fleet", Name: name}}, false)
			if warned := strings.Contains(strings.Join(warnings, "\n"), "does not answer now; the Pod's containers start when it answers: no route"); warned != (name == "silent") {
				t.Errorf("warnings are %q", warnings)
			}
			switch {
			case want == "" && (err != nil || target.Endpoint != "https://a:6443" || target.Delivery != "Direct"):
				t.Errorf("got %+v, %v", target, err)
			case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

func fleetOf(t *testing.T, providers *clusterprofile.ProviderFile, objects ...client.Object) targets {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), inventory.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return fleet{fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(), operator{providers: providers}}.target
}

// Plugins and ClusterProfiles are looked up as the webhook does it.
func TestTargetsWithPlugins(t *testing.T) {
	providers, err := clusterprofile.ParseProviderFile([]byte(`{"providers":[{"name":"reader","image":"i","execConfig":{"apiVersion":"client.authentication.k8s.io/v1","command":"/reader"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	const status = "status: {observedGeneration: 2, endpoint: 'https://a:6443', delivery: Direct, conditions: [{type: Resolved, status: 'True'}]}"
	profile := &inventory.ClusterProfile{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "paris"}}
	profile.Status.AccessProviders = []inventory.AccessProvider{{Name: "reader", Cluster: clientcmdv1.Cluster{Server: "https://b", CertificateAuthorityData: []byte(endpointtest.CertificateAuthority)}}}
	objects := []client.Object{
		profile,
		targetCluster(t, "plugin", "spec: {access: {type: Exec, exec: {provider: reader, runIn: Pod}}}\n"+status),
		targetCluster(t, "both", "spec: {clusterProfile: {namespace: fleet, name: paris}, access: {type: Exec, exec: {provider: reader, runIn: Pod}}}\n"+status),
		targetCluster(t, "lost", "spec: {clusterProfile: {namespace: fleet, name: rome}, access: {type: Exec, exec: {provider: reader, runIn: Pod}}}\n"+status),
	}
	cluster := func(name string) injector.Annotations {
		return injector.Annotations{Cluster: types.NamespacedName{Namespace: "fleet", Name: name}}
	}
	paris := cluster("paris")
	paris.ClusterProfile = true
	for name, test := range map[string]struct {
		want      injector.Annotations
		providers *clusterprofile.ProviderFile
		endpoint  string
		err       string
	}{
		"TargetCluster":                {cluster("plugin"), providers, "https://a:6443", ""},
		"TargetCluster with a profile": {cluster("both"), providers, "https://a:6443", ""},
		"ClusterProfile":               {paris, providers, "https://b:443", ""},
		"TargetCluster, no profile":    {cluster("lost"), providers, "", "there is no ClusterProfile fleet/rome"},
		"TargetCluster, no providers":  {cluster("plugin"), nil, "", "set --provider-file to the provider file of the installation"},
		"ClusterProfile, no providers": {paris, nil, "", "set --provider-file to the provider file of the installation"},
	} {
		t.Run(name, func(t *testing.T) {
			target, _, err := fleetOf(t, test.providers, objects...)(t.Context(), test.want, false)
			switch {
			case test.err == "" && (err != nil || target.Endpoint != test.endpoint || target.Plugin == nil || target.Plugin.Image != "i"):
				t.Errorf("got %+v, %v", target, err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("got %v, want %q", err, test.err)
			}
		})
	}
	t.Run("ClusterProfile offline", func(t *testing.T) {
		find, err := targetsOfFile("testdata/tenant-1.yaml", "default", operator{providers: providers})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := find(t.Context(), paris, false); err == nil || !strings.Contains(err.Error(), "cannot be read offline") {
			t.Errorf("got %v", err)
		}
	})
}

// TestInjectCredentialRequest: the Secret is that of the request, and other types are refused as by
// the webhook.
func TestInjectCredentialRequest(t *testing.T) {
	request := func(name, target string, form v1alpha1.CredentialType) *v1alpha1.CredentialRequest {
		return &v1alpha1.CredentialRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name}, Spec: v1alpha1.CredentialRequestSpec{
			TargetCluster: v1alpha1.ObjectReference{Namespace: "fleet", Name: target}, Type: form, Secret: v1alpha1.CredentialSecret{Name: "kept"},
		}}
	}
	tc := &v1alpha1.TargetCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "tenant-1"}, Spec: v1alpha1.TargetClusterSpec{DefaultNamespace: "team-a"}}
	known := fleetOf(t, nil, tc, request("web", "tenant-1", v1alpha1.CredentialTokenFile),
		request("config", "tenant-1", v1alpha1.CredentialKubeconfig), request("lost", "gone", v1alpha1.CredentialTokenFile))
	for name, wrong := range map[string]string{
		"web": "", "config": "has type kubeconfig", "lost": "spec.targetCluster: there is no TargetCluster fleet/gone", "none": "there is no CredentialRequest app/none",
	} {
		want := injector.Annotations{Cluster: types.NamespacedName{Namespace: "app", Name: name}, CredentialRequest: true}
		got, _, err := known(t.Context(), want, false)
		switch {
		case wrong == "" && (err != nil || got.Secret != "kept" || got.Namespace != "team-a"):
			t.Errorf("%s: got %+v, %v", name, got, err)
		case wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)):
			t.Errorf("%s: got %v, want %q", name, err, wrong)
		}
	}
}

func targetCluster(t *testing.T, name, status string) *v1alpha1.TargetCluster {
	t.Helper()
	tc := &v1alpha1.TargetCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name, Generation: 2}}
	if err := yaml.UnmarshalStrict([]byte(status), tc); err != nil {
		t.Fatal(err)
	}
	return tc
}

// authority is the certificate authority of targets, as YAML has it.
var authority = base64.StdEncoding.EncodeToString([]byte(endpointtest.CertificateAuthority))

// A federated Pod has no sidecar, and none that could be a proxy.
func TestInjectFederated(t *testing.T) {
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: web, annotations: {keyferry.dev/cluster: fleet/tenant-1}}\nspec: {containers: [{name: app, image: a}]}\n"
	target := func(more string) string {
		file := filepath.Join(t.TempDir(), "target.yaml")
		text := "apiVersion: keyferry.dev/v1alpha1\nkind: TargetCluster\nmetadata: {namespace: fleet, name: tenant-1}\nspec:\n" +
			"  endpoint: {server: 'https://203.0.113.7:6443', certificateAuthorityData: " + authority + more + "}\n  access: {type: None}\n  issue: {type: Federation, federation: {audience: tenant-1.example.com}}\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "--target-cluster=" + file
	}
	code, stdout, stderr := keyferry(t, pod, "inject", "-f", "-", "--refresher-image=x", target(""))
	if code != 0 || !strings.Contains(stdout, "audience: tenant-1.example.com") || !strings.Contains(stdout, "keyferry.dev/federated") || strings.Contains(stdout, "refresher") {
		t.Errorf("got %d\n%s%s", code, stdout, stderr)
	}
	code, _, stderr = keyferry(t, pod, "inject", "-f", "-", "--refresher-image=x", target(", proxyURL: 'http://proxy.example.com'"))
	if code != ExitFailed || !strings.Contains(stderr, "set an endpoint that needs none") {
		t.Errorf("with a proxy: got %d %s", code, stderr)
	}
}

// TestInjectOffline: a TargetCluster in a file gets the delivery that the controller would give it,
// or the same refusal.
func TestInjectOffline(t *testing.T) {
	const clientCertificate = "  access: {type: None}\n  issue: {type: ClientCertificate, clientCertificate: {issuerRef: {name: ca, kind: Issuer}, commonName: 'app:web'}}\n"
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: web, annotations: {keyferry.dev/cluster: fleet/tenant-1}}\nspec: {containers: [{name: app, image: a}]}\n"
	for name, test := range map[string]struct {
		endpoint, spec string
		args           []string
		want, refused  string
	}{
		"client certificate":         {spec: clientCertificate, want: "--delivery=proxy"},
		"client certificate, direct": {spec: clientCertificate + "  delivery: Direct\n", refused: "the credential is a client certificate: use Auto or Proxy"},
		"token":                      {spec: "  access: {type: Kubeconfig, kubeconfig: {name: a}}\n  issue: {type: TokenRequest, tokenRequest: {serviceAccount: {type: Mirror}}}\n", want: "--endpoint=https://203.0.113.7:6443"},
		"ftp proxy":                  {endpoint: ", proxyURL: 'ftp://proxy'", spec: clientCertificate, refused: `spec.endpoint.proxyURL: has the scheme "ftp"`},
		"loopback":                   {endpoint: ", proxyURL: 'http://127.0.0.1'", spec: clientCertificate, refused: "127.0.0.1 is a loopback address"},
		"loopback, allowed":          {endpoint: ", proxyURL: 'http://127.0.0.1'", spec: clientCertificate, args: []string{"--allow-local-addresses"}, want: "--delivery=proxy"},
		"ambient": {spec: "  access: {type: GKE, gke: {identity: Ambient}}\n  issue: {type: Access}\n",
			refused: "add fleet to the chart value ambientIdentity.namespaces"},
		"ambient, allowed": {spec: "  access: {type: GKE, gke: {identity: Ambient}}\n  issue: {type: Access}\n",
			args: []string{"--ambient-identity-namespaces=fleet"}, want: "--endpoint=https://203.0.113.7:6443"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "target.yaml")
			text := "apiVersion: keyferry.dev/v1alpha1\nkind: TargetCluster\nmetadata: {namespace: fleet, name: tenant-1}\nspec:\n" +
				"  endpoint: {server: 'https://203.0.113.7:6443', certificateAuthorityData: " + authority + test.endpoint + "}\n" + test.spec
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			code, stdout, stderr := keyferry(t, pod, append([]string{"inject", "-f", "-", "--refresher-image=x", "--target-cluster=" + file}, test.args...)...)
			if test.refused != "" {
				if code != ExitFailed || !strings.Contains(stderr, test.refused) {
					t.Errorf("got %d, %s, want %q", code, stderr, test.refused)
				}
				return
			}
			if code != ExitOK || !strings.Contains(stdout, test.want) {
				t.Errorf("got %d\n%s%s, want %s", code, stdout, stderr, test.want)
			}
		})
	}
}

func TestInjectForWorkloadIdentity(t *testing.T) {
	for audience, access := range map[string]string{
		"sts.amazonaws.com":          "{type: EKS, eks: {clusterName: a, region: eu-central-1, identity: WorkloadIdentity, roleARN: 'arn:aws:iam::123456789012:role/a'}}",
		"api://AzureADTokenExchange": "{type: AKS, aks: {identity: WorkloadIdentity, clientID: 11111111-2222-3333-4444-555555555555, tenantID: 11111111-2222-3333-4444-555555555555}}",
		"https://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/a/providers/b": "{type: GKE, gke: {identity: WorkloadIdentity, " +
			"workloadIdentityProvider: projects/1/locations/global/workloadIdentityPools/a/providers/b}}",
	} {
		file := filepath.Join(t.TempDir(), "target.yaml")
		text := "apiVersion: keyferry.dev/v1alpha1\nkind: TargetCluster\nmetadata: {name: tenant-1, namespace: fleet}\nspec:\n" +
			"  endpoint: {server: 'https://203.0.113.7:6443', certificateAuthorityData: " + authority + "}\n  issue: {type: Access}\n  access: " + access + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := keyferry(t, "", "inject", "-f", "testdata/inject/list.yaml", "--target-cluster="+file)
		if code != ExitOK || !strings.Contains(stdout, "audience: "+audience) || !strings.Contains(stdout, "path: subject-token") {
			t.Errorf("%s: exit code %d, %s\n%s", audience, code, stderr, stdout)
		}
	}
}
