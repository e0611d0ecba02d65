package clusterprofile

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

const exec = `"execConfig":{"apiVersion":"client.authentication.k8s.io/v1","command":"/plugins/p","args":["--own"],"env":[{"name":"OWN","value":"own"},{"name":"REGION","value":"own"}],"provideClusterInfo":true}`

func parse(t *testing.T, providers ...string) *ProviderFile {
	t.Helper()
	file, err := ParseProviderFile([]byte(`{"providers":[` + strings.Join(providers, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func access(name, server string, extensions ...string) inventory.AccessProvider {
	p := inventory.AccessProvider{Name: name, Cluster: clientcmdv1.Cluster{
		Server: server, CertificateAuthorityData: []byte("ca"), TLSServerName: "api.internal", ProxyURL: "http://proxy:3128",
	}}
	for i := 0; i < len(extensions); i += 2 {
		p.Cluster.Extensions = append(p.Cluster.Extensions, clientcmdv1.NamedExtension{Name: extensions[i], Extension: runtime.RawExtension{Raw: []byte(extensions[i+1])}})
	}
	return p
}

func profile(providers ...inventory.AccessProvider) *inventory.ClusterProfile {
	return &inventory.ClusterProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "tenant-1"},
		Status:     inventory.ClusterProfileStatus{AccessProviders: providers},
	}
}

func TestParse(t *testing.T) {
	file := parse(t, `{"name":"community",`+exec+`}`, `{"name":"ours","image":"registry.example/p:1",`+exec+`}`,
		`{"name":"both","image":"registry.example/p:1","runIn":"Broker",`+exec+`}`)
	want := Plugin{
		Name: "community", RunIn: v1alpha1.RunInBroker, Command: "/plugins/p", Args: []string{"--own"},
		Env:        []EnvVar{{"OWN", "own"}, {"REGION", "own"}},
		APIVersion: "client.authentication.k8s.io/v1", ProvideClusterInfo: true,
	}
	if got, err := file.Named("community", false, nil); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for name, runIn := range map[string]v1alpha1.RunIn{"ours": v1alpha1.RunInPod, "both": v1alpha1.RunInBroker} {
		if got, err := file.Named(name, true, nil); err != nil || got.RunIn != runIn || got.Image != "registry.example/p:1" {
			t.Errorf("%s: got %+v, want it to run in %s", name, got, runIn)
		}
	}
	if _, err := file.Named("other", false, nil); !errors.Is(err, ErrProvider) {
		t.Error("there is a provider that nobody wrote")
	}
	if got := file.Names(); !reflect.DeepEqual(got, []string{"community", "ours", "both"}) {
		t.Errorf("names are %v", got)
	}
}

func TestParseRefuses(t *testing.T) {
	config := func(config string) string {
		return `{"name":"p","execConfig":{"apiVersion":"client.authentication.k8s.io/v1","command":"/p",` + config + `}}`
	}
	for name, test := range map[string]struct{ provider, want string }{
		"no name":             {`{` + exec + `}`, "name must be"},
		"same name":           {`{"name":"p",` + exec + `},{"name":"p",` + exec + `}`, "providers[1] (\"p\"): name: another provider"},
		"no execConfig":       {`{"name":"p"}`, `providers[0] ("p"): execConfig is missing`},
		"unknown field":       {`{"name":"p","profileSourcedArgsPolicy":"Append",` + exec + `}`, `unknown field "profileSourcedArgsPolicy"`},
		"relative command":    {config(`"command":"./bin/p"`), `execConfig.command is "./bin/p": it must be an absolute path`},
		"command to find":     {config(`"command":"p"`), "it must be an absolute path"},
		"command with dots":   {config(`"command":"/plugins/../p"`), "absolute path without"},
		"shell":               {config(`"command":"/bin/sh"`), "the shell"},
		"no apiVersion":       {`{"name":"p","execConfig":{"command":"/p"}}`, "execConfig.apiVersion"},
		"alpha":               {config(`"apiVersion":"client.authentication.k8s.io/v1alpha1"`), "execConfig.apiVersion"},
		"interactive":         {config(`"interactiveMode":"Always"`), "execConfig.interactiveMode"},
		"NUL in argument":     {config(`"args":["a","\u0000"]`), "execConfig.args[1]"},
		"NUL in variable":     {config(`"env":[{"name":"A","value":"\u0000"}]`), "execConfig.env[0].value"},
		"name of variable":    {config(`"env":[{"name":"A=B","value":""}]`), "execConfig.env[0].name"},
		"variable twice":      {config(`"env":[{"name":"A"},{"name":"A"}]`), "A is there twice"},
		"the question itself": {config(`"env":[{"name":"KUBERNETES_EXEC_INFO"}]`), "Keyferry sets KUBERNETES_EXEC_INFO itself"},
		"runIn":               {`{"name":"p","runIn":"Webhook",` + exec + `}`, `runIn is "Webhook"`},
		"Pod without image":   {`{"name":"p","runIn":"Pod",` + exec + `}`, "image is missing"},
		"image":               {`{"name":"p","image":"a b",` + exec + `}`, "image is not a reference"},
		"args policy":         {`{"name":"p","profileSourcedCLIArgsPolicy":"Replace",` + exec + `}`, "profileSourcedCLIArgsPolicy"},
		"env policy":          {`{"name":"p","profileSourcedEnvVarsPolicy":"Append",` + exec + `}`, "profileSourcedEnvVarsPolicy"},
		"reserved is listed":  {`{"name":"p","profileSourcedEnvVarNames":["LD_PRELOAD"],` + exec + `}`, "profileSourcedEnvVarNames[0]"},
		"too many arguments":  {config(`"args":[` + strings.Repeat(`"",`, maxCount) + `""]`), "129 arguments"},
		"too long":            {config(`"args":["` + strings.Repeat("a", maxBytes+1) + `"]`), "more than 64 KiB"},
		"no object":           {`[]`, "providers[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseProviderFile([]byte(`{"providers":[` + test.provider + `]}`))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want it to say %q", err, test.want)
			}
		})
	}
	for name, content := range map[string]string{
		"empty": "", "YAML": "providers: []", "other fields": `{"provider":[]}`, "more": `{"providers":[]}{}`, "large": strings.Repeat(" ", maxFile+1),
		"too many": `{"providers":[` + strings.Repeat("{},", maxProviders) + `{}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseProviderFile([]byte(content)); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestSelect(t *testing.T) {
	file := parse(t, `{"name":"first",`+exec+`}`, `{"name":"second",`+exec+`}`)
	for name, test := range map[string]struct {
		profile *inventory.ClusterProfile
		want    string
		server  string
	}{
		"the operator's order": {profile(access("second", "https://2"), access("first", "https://1")), "first", "https://1"},
		"what both have":       {profile(access("other", "https://3"), access("second", "https://2")), "second", "https://2"},
		"deprecated": {&inventory.ClusterProfile{Status: inventory.ClusterProfileStatus{
			CredentialProviders: []inventory.CredentialProvider{access("first", "https://old")},
		}}, "first", "https://old"},
		"both lists": {&inventory.ClusterProfile{Status: inventory.ClusterProfileStatus{
			CredentialProviders: []inventory.CredentialProvider{access("first", "https://old")},
			AccessProviders:     []inventory.AccessProvider{access("first", "https://new")},
		}}, "first", "https://new"},
		"one in each": {&inventory.ClusterProfile{Status: inventory.ClusterProfileStatus{
			CredentialProviders: []inventory.CredentialProvider{access("first", "https://old")},
			AccessProviders:     []inventory.AccessProvider{access("second", "https://new")},
		}}, "first", "https://old"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := file.Select(test.profile)
			if err != nil || got.Name != test.want || got.Cluster.Server != test.server {
				t.Fatalf("got %s at %s (%v), want %s at %s", got.Name, got.Cluster.Server, err, test.want, test.server)
			}
			if c := got.Cluster; string(c.CertificateAuthority) != "ca" || c.TLSServerName != "api.internal" || c.ProxyURL != "http://proxy:3128" {
				t.Errorf("the cluster lost something: %+v", c)
			}
			if cluster, err := file.Cluster(test.profile); err != nil || cluster.Server != test.server {
				t.Errorf("Cluster is at %s (%v), want %s", cluster.Server, err, test.server)
			}
		})
	}
	for name, test := range map[string]struct {
		file *ProviderFile
		want string
	}{
		"none in common": {file, "none of ClusterProfile fleet/tenant-1's access providers is in the provider file: the profile has other, the provider file has first, second"},
		"no file":        {nil, "the provider file has none"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := test.file.Select(profile(access("other", "https://3"))); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want it to say %q", err, test.want)
			}
		})
	}
}

func TestCluster(t *testing.T) {
	if got, err := (*ProviderFile)(nil).Cluster(profile(access("only", "https://1"))); err != nil || got.Server != "https://1" {
		t.Errorf("got %s (%v), want the only one", got.Server, err)
	}
	for want, p := range map[string]*inventory.ClusterProfile{
		"status.accessProviders has a, b, but the provider file": profile(access("b", "https://2"), access("a", "https://1")),
		"status.accessProviders is empty":                        profile(),
	} {
		if _, err := (*ProviderFile)(nil).Cluster(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
}

func TestForProfileRefuses(t *testing.T) {
	all := `"profileSourcedCLIArgsPolicy":"Append","profileSourcedEnvVarsPolicy":"Replace",`
	file := parse(t, `{"name":"p",`+all+exec+`}`, `{"name":"listed","profileSourcedEnvVarNames":["AZURE_TENANT_ID"],`+all+exec+`}`)
	changed := func(change func(*clientcmdv1.Cluster)) *inventory.ClusterProfile {
		p := access("p", "https://1")
		change(&p.Cluster)
		return profile(p)
	}
	extended := func(name, value string) *inventory.ClusterProfile {
		return profile(access("p", "https://1", name, value))
	}
	for name, test := range map[string]struct {
		profile *inventory.ClusterProfile
		want    string
	}{
		"insecure":           {changed(func(c *clientcmdv1.Cluster) { c.InsecureSkipTLSVerify = true }), "insecure-skip-tls-verify"},
		"path":               {changed(func(c *clientcmdv1.Cluster) { c.CertificateAuthorityData, c.CertificateAuthority = nil, "/etc/passwd" }), "certificate-authority is a path"},
		"other provider":     {profile(access("other", "https://1")), `status.accessProviders does not contain "p": it contains other`},
		"args of a form":     {extended(extensionArgs, `{"a":"planted"}`), "must be an array of strings"},
		"args with line end": {extended(extensionArgs, `["a\nb"]`), "control character"},
		"args too long":      {extended(extensionArgs, `["`+strings.Repeat("a", maxBytes)+`"]`), "longer than 64 KiB"},
		"args too many":      {extended(extensionArgs, `[`+strings.Repeat(`"",`, maxCount)+`""]`), "130 arguments"},
		"envs of a form":     {extended(extensionEnv, `["planted"]`), "must be an object of strings"},
		"env with line end":  {extended(extensionEnv, `{"A":"b\n"}`), "control character in the variable A"},
		"env with NUL":       {extended(extensionEnv, `{"A":"\u0000"}`), "control character in the variable A"},
		"env name":           {extended(extensionEnv, `{"A=B":""}`), "whose name is not valid"},
		"PATH":               {extended(extensionEnv, `{"PATH":"/planted"}`), "remove the variable from the ClusterProfile"},
		"LD_PRELOAD":         {extended(extensionEnv, `{"LD_PRELOAD":"/planted"}`), "remove the variable from the ClusterProfile"},
		"https_proxy":        {extended(extensionEnv, `{"https_proxy":"planted"}`), "remove the variable from the ClusterProfile"},
		"GODEBUG":            {extended(extensionEnv, `{"GODEBUG":"planted"}`), "remove the variable from the ClusterProfile"},
		"HOME":               {extended(extensionEnv, `{"HOME":"planted"}`), "remove the variable from the ClusterProfile"},
		"exec info":          {extended(extensionEnv, `{"KUBERNETES_EXEC_INFO":"planted"}`), "remove the variable from the ClusterProfile"},
		"cloud":              {extended(extensionEnv, `{"AWS_CONFIG_FILE":"planted"}`), "add it to profileSourcedEnvVarNames of provider p"},
		"config no JSON":     {extended(extensionConfig, `planted`), "is no JSON"},
		"config too long":    {extended(extensionConfig, `"`+strings.Repeat("a", maxBytes)+`"`), "longer than 64 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := file.ForProfile("p", test.profile)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "planted") {
				t.Errorf("got %v, want it to say %q, and nothing that is planted", err, test.want)
			}
		})
	}
	if _, err := file.ForProfile("listed", profile(access("listed", "https://1", extensionEnv, `{"AZURE_TENANT_ID":"t"}`))); err != nil {
		t.Errorf("what the operator lists: %v", err)
	}
	if _, err := file.ForProfile("listed", profile(access("listed", "https://1", extensionEnv, `{"TENANT":"t"}`))); err == nil {
		t.Error("what the operator does not list was taken")
	}
	if _, err := file.ForProfile("none", profile()); err == nil || !strings.Contains(err.Error(), "it has p, listed") {
		t.Errorf("got %v", err)
	}
}

func TestPolicies(t *testing.T) {
	data := access("p", "https://1", extensionArgs, `["--cluster","one"]`, extensionEnv, `{"REGION":"eu","A":"1"}`, extensionConfig, `{"id":"c-1"}`)
	for policies, want := range map[string]struct {
		args []string
		env  []EnvVar
	}{
		``: {[]string{"--own"}, []EnvVar{{"OWN", "own"}, {"REGION", "own"}}},
		`"profileSourcedCLIArgsPolicy":"Ignore","profileSourcedEnvVarsPolicy":"Ignore",`: {[]string{"--own"}, []EnvVar{{"OWN", "own"}, {"REGION", "own"}}},
		`"profileSourcedCLIArgsPolicy":"Append",`:                                        {[]string{"--own", "--cluster", "one"}, []EnvVar{{"OWN", "own"}, {"REGION", "own"}}},
		`"profileSourcedEnvVarsPolicy":"AppendIfNotExists",`:                             {[]string{"--own"}, []EnvVar{{"OWN", "own"}, {"REGION", "own"}, {"A", "1"}}},
		`"profileSourcedEnvVarsPolicy":"Replace",`:                                       {[]string{"--own"}, []EnvVar{{"OWN", "own"}, {"REGION", "eu"}, {"A", "1"}}},
	} {
		t.Run(policies, func(t *testing.T) {
			got, err := parse(t, `{"name":"p",`+policies+exec+`}`).ForProfile("p", profile(data))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Args, want.args) || !reflect.DeepEqual(got.Env, want.env) || string(got.Cluster.Config) != `{"id":"c-1"}` {
				t.Errorf("got %v, %v and %s, want %v and %v", got.Args, got.Env, got.Cluster.Config, want.args, want.env)
			}
		})
	}
}

// TestNothingIsShared checks that changes to a returned value affect neither the profile nor
// results for other clusters.
func TestNothingIsShared(t *testing.T) {
	file := parse(t, `{"name":"p","profileSourcedCLIArgsPolicy":"Append","profileSourcedEnvVarsPolicy":"Replace",`+exec+`}`)
	one := profile(access("p", "https://1", extensionArgs, `["one"]`, extensionEnv, `{"REGION":"one","ONE":"1"}`, extensionConfig, `"one"`))
	before := one.DeepCopy()
	first, err := file.ForProfile("p", one)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(first.Args[:1], "overwritten")
	first.Args[0], first.Env[0].Value = "overwritten", "overwritten"
	first.Cluster.CertificateAuthority[0], first.Cluster.Config[1] = 'X', 'X'
	second, err := file.ForProfile("p", profile(access("p", "https://2")))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(second.Args, []string{"--own"}) || !reflect.DeepEqual(second.Env, []EnvVar{{"OWN", "own"}, {"REGION", "own"}}) || second.Cluster.Config != nil {
		t.Errorf("the second cluster's plugin has of the first: %+v", second)
	}
	if !reflect.DeepEqual(one, before) {
		t.Error("the profile changed")
	}
}

// FuzzParseProviderFile checks that every accepted file contains runnable plugins, and is the same
// after it was encoded and parsed again.
func FuzzParseProviderFile(f *testing.F) {
	f.Add([]byte(`{"providers":[{"name":"a",` + exec + `},{"name":"b","image":"i","profileSourcedCLIArgsPolicy":"Append","profileSourcedEnvVarNames":["A"],` + exec + `}]}`))
	f.Add([]byte(`{"providers":[{"name":"a","runIn":"Pod","image":"i","profileSourcedEnvVarsPolicy":"Replace",` + exec + `}]}`))
	f.Add([]byte(`{"providers":null}`))
	f.Add([]byte(`{"providers":[{"name":"a",` + strings.Replace(exec, "/plugins/p", "plugins/p", 1) + `}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := ParseProviderFile(data)
		if err != nil {
			return
		}
		for _, name := range file.Names() {
			p, err := file.ForProfile(name, profile(access(name, "https://1", extensionArgs, `["x"]`, extensionEnv, `{"X":"y"}`)))
			if err != nil {
				if strings.Contains(err.Error(), "more than") || strings.Contains(err.Error(), "may not") || strings.Contains(err.Error(), "does not let") {
					continue
				}
				t.Fatal(err)
			}
			if !filepath.IsAbs(p.Command) || strings.ContainsRune(p.Command, 0) || p.RunIn == v1alpha1.RunInPod && p.Image == "" {
				t.Errorf("this cannot be run: %+v", p)
			}
			for _, text := range p.Args {
				if strings.ContainsRune(text, 0) {
					t.Errorf("argument %q", text)
				}
			}
		}
	})
}

func TestFile(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a missing file was opened")
	}
	none, err := Open("")
	if err != nil || none.Current() != nil {
		t.Fatalf("no path: %v, %v", none.Current(), err)
	}
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "providers.json")
		write := func(content string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(`{"providers":[{"name":"a",` + exec + `}]}`)
		file, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var reports []string
		log := funcr.New(func(_, args string) { reports = append(reports, args) }, funcr.Options{})
		go func() { _ = file.Follow(log)(ctx) }()
		look := func() *ProviderFile {
			time.Sleep(3 * watchInterval) //nolint:forbidigo // the bubble's clock
			synctest.Wait()
			return file.Current()
		}
		first := look()
		if len(reports) != 0 || first != look() {
			t.Errorf("an unchanged file was reported: %v", reports)
		}
		write(`{"providers":[{"name":"b"}]}`)
		if look() != first || len(reports) != 1 || !strings.Contains(reports[0], `providers[0] (\"b\"): execConfig is missing`) {
			t.Errorf("a broken file: %v", reports)
		}
		write(`{"providers":[{"name":"b",` + exec + `}]}`)
		if got := look().Names(); !reflect.DeepEqual(got, []string{"b"}) || len(reports) != 2 || !strings.Contains(reports[1], `"providers"=["b"]`) {
			t.Errorf("a mended file: %v, %v", got, reports)
		}
	})
}

// TestCommunityForm uses the community's samples, with absolute commands.
func TestCommunityForm(t *testing.T) {
	file := parse(t, `{"name":"secretreader","execConfig":{"apiVersion":"client.authentication.k8s.io/v1","args":null,"command":"/plugin/bin/secretreader-plugin","env":null,"provideClusterInfo":true,"interactiveMode":"Never","installHint":"x"}}`)
	got, err := file.Select(profile(access("secretreader", "https://1")))
	if err != nil || got.Command != "/plugin/bin/secretreader-plugin" || !got.ProvideClusterInfo {
		t.Errorf("got %+v (%v)", got, err)
	}
	if _, err := json.Marshal(got); err != nil {
		t.Error(err)
	}
}

// TestDocumentation checks that the examples in docs/clusterprofile.md work together.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "clusterprofile.md"))
	if err != nil {
		t.Fatal(err)
	}
	// The first sample is of a Pod.
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1)
	if len(blocks) != 3 {
		t.Fatalf("the page has %d samples in YAML", len(blocks))
	}
	var values struct {
		ProviderFile json.RawMessage `json:"providerFile"`
	}
	shown := &inventory.ClusterProfile{}
	if err := errors.Join(yaml.UnmarshalStrict(blocks[1][1], &values), yaml.UnmarshalStrict(blocks[2][1], shown)); err != nil {
		t.Fatal(err)
	}
	file, err := ParseProviderFile(values.ProviderFile)
	if err != nil {
		t.Fatal(err)
	}
	got, err := file.Select(shown)
	if err != nil || got.Name != "azure" || got.Env[len(got.Env)-1].Name != "AZURE_TENANT_ID" || len(got.Cluster.Config) == 0 {
		t.Errorf("selected %+v (%v)", got, err)
	}
}
