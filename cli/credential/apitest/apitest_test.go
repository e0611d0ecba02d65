// Package apitest has clients that were not written by us run the command as their credential
// plugin, against a real API server.
package apitest

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/cluster-inventory-api/pkg/access"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/cli"
	"github.com/keyferry/keyferry/internal/testenv"
)

// asCommand in the environment makes this program the command.
const asCommand = "KEYFERRY_TEST_AS_COMMAND"

var (
	serverConfig *rest.Config
	server       *kubernetes.Clientset
)

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		code := cli.Run(ctx, genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}, os.Args)
		stop()
		os.Exit(code)
	}
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		serverConfig, server = cfg, kubernetes.NewForConfigOrDie(cfg)
	}))
}

// fixed is the ServiceAccount robot, for all requests.
const fixed = "type: Fixed, namespace: NAMESPACE, name: robot"

// newFile writes a TargetCluster by kubeconfig, which can issue tokens of the ServiceAccount robot
// of a new namespace. account says whose it does issue.
func newFile(t *testing.T, account string) (file, namespace string) {
	t.Helper()
	ns, err := server.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "robots-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"robot", "keyferry"} {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := server.CoreV1().ServiceAccounts(ns.Name).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	allow(t, ns.Name, "keyferry", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{"robot"}, Verbs: []string{"create"}})
	requested, err := server.CoreV1().ServiceAccounts(ns.Name).CreateToken(t.Context(), "keyferry", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: serverConfig.Host, CertificateAuthorityData: serverConfig.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: requested.Status.Token}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]string{"name": "tenant-1", "namespace": "fleet"},
		"stringData": map[string]string{"kubeconfig": string(kubeconfig)},
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster := `
apiVersion: keyferry.dev/v1alpha1
kind: TargetCluster
metadata: {name: tenant-1, namespace: fleet}
spec:
  access: {type: Kubeconfig, kubeconfig: {name: tenant-1}}
  issue:
    type: TokenRequest
    tokenRequest: {serviceAccount: {` + strings.Replace(account, "NAMESPACE", ns.Name, 1) + `}}
---
`
	file = filepath.Join(t.TempDir(), "tenant-1.yaml")
	if err := os.WriteFile(file, append([]byte(cluster), secret...), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, ns.Name
}

// allow lets a ServiceAccount do something in its namespace.
func allow(t *testing.T, namespace, account string, rule rbacv1.PolicyRule) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: account}
	if _, err := server.RbacV1().Roles(namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: account},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}},
	}
	if _, err := server.RbacV1().RoleBindings(namespace).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// plugin runs this program as the command with the file.
func plugin(t *testing.T, version, file string) *clientcmdapi.ExecConfig {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &clientcmdapi.ExecConfig{
		APIVersion:         "client.authentication.k8s.io/" + version,
		Command:            program,
		Args:               []string{"credential", "-f", file},
		Env:                []clientcmdapi.ExecEnvVar{{Name: asCommand, Value: "yes"}},
		InteractiveMode:    clientcmdapi.NeverExecInteractiveMode,
		ProvideClusterInfo: true,
	}
}

// whoAmI is the name that the server knows a client by.
func whoAmI(t *testing.T, cfg *rest.Config) (string, error) {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return "", err
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return review.Status.UserInfo.Username, nil
}

func TestPluginOfClientGo(t *testing.T) {
	for name, test := range map[string]struct{ version, account string }{
		"v1":      {"v1", fixed},
		"v1beta1": {"v1beta1", fixed},
		"Mirror":  {"v1", "type: Mirror"},
	} {
		t.Run(name, func(t *testing.T) {
			file, namespace := newFile(t, test.account)
			cfg := &rest.Config{Host: serverConfig.Host, TLSClientConfig: rest.TLSClientConfig{CAData: serverConfig.CAData}, ExecProvider: plugin(t, test.version, file)}
			if name == "Mirror" {
				cfg.ExecProvider.Args = append(cfg.ExecProvider.Args, "--service-account", namespace+"/robot")
			}
			got, err := whoAmI(t, cfg)
			if want := "system:serviceaccount:" + namespace + ":robot"; err != nil || got != want {
				t.Errorf("the server knows %q, want %s: %v", got, want, err)
			}
		})
	}
}

func TestPluginForAnotherServer(t *testing.T) {
	file, _ := newFile(t, fixed)
	cfg := &rest.Config{Host: "https://203.0.113.7:6443", TLSClientConfig: rest.TLSClientConfig{CAData: serverConfig.CAData}, ExecProvider: plugin(t, "v1", file)}
	if _, err := whoAmI(t, cfg); err == nil || !strings.Contains(err.Error(), "exit code 1") {
		t.Errorf("got %v, want that the plugin fails", err)
	}
}

func TestWholeKubeconfig(t *testing.T) {
	file, namespace := newFile(t, fixed)
	var out, errOut strings.Builder
	code := cli.Run(t.Context(), genericiooptions.IOStreams{Out: &out, ErrOut: &errOut}, []string{"keyferry", "credential", "-f", file, "-o", "kubeconfig"})
	cfg, err := clientcmd.RESTConfigFromKubeConfig([]byte(out.String()))
	if code != 0 || err != nil {
		t.Fatalf("%d: %v: %s", code, err, errOut.String())
	}
	if got, err := whoAmI(t, cfg); err != nil || got != "system:serviceaccount:"+namespace+":robot" {
		t.Errorf("the server knows %q: %v", got, err)
	}
}

// TestPluginOfAClusterProfile: the community's library makes a client of a ClusterProfile, with the
// command as access provider.
func TestPluginOfAClusterProfile(t *testing.T) {
	file, namespace := newFile(t, fixed)
	profile := func(target string) *inventory.ClusterProfile {
		config, err := json.Marshal(map[string]string{"targetCluster": target})
		if err != nil {
			t.Fatal(err)
		}
		return &inventory.ClusterProfile{Status: inventory.ClusterProfileStatus{AccessProviders: []inventory.AccessProvider{{
			Name: "keyferry",
			Cluster: clientcmdv1.Cluster{
				Server: serverConfig.Host, CertificateAuthorityData: serverConfig.CAData,
				Extensions: []clientcmdv1.NamedExtension{{Name: "client.authentication.k8s.io/exec", Extension: runtime.RawExtension{Raw: config}}},
			},
		}}}}
	}
	consumer := access.New([]access.Provider{{Name: "keyferry", ExecConfig: plugin(t, "v1", file)}})
	for target, want := range map[string]string{"fleet/tenant-1": "system:serviceaccount:" + namespace + ":robot", "fleet/tenant-2": ""} {
		cfg, err := consumer.BuildConfigFromCP(profile(target))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := whoAmI(t, cfg); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: the server knows %q, want %q: %v", target, got, want, err)
		}
	}
}

// TestPluginsOfAProviderFile: offline, a TargetCluster by ClusterProfile and plugin; the plugin is
// the command itself, with another file.
func TestPluginsOfAProviderFile(t *testing.T) {
	inner, namespace := newFile(t, fixed)
	dir := t.TempDir()
	exec := plugin(t, "v1", inner)
	write := func(name string, documents ...any) string {
		var text []byte
		for _, document := range documents {
			encoded, err := yaml.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			text = append(append(text, "---\n"...), encoded...)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	object := map[string]any{"providers": []any{map[string]any{"name": "keyferry", "image": "example.com/keyferry:v1", "execConfig": map[string]any{
		"apiVersion": exec.APIVersion, "command": exec.Command, "args": exec.Args, "interactiveMode": "Never", "provideClusterInfo": true,
		"env": []any{map[string]string{"name": asCommand, "value": "yes"}},
	}}}}
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	providers := filepath.Join(dir, "providers.json")
	if err := os.WriteFile(providers, text, 0o600); err != nil {
		t.Fatal(err)
	}
	profile := map[string]any{
		"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile", "metadata": map[string]string{"namespace": "fleet", "name": "tenant-2"},
		"status": map[string]any{"accessProviders": []any{map[string]any{
			"name": "keyferry", "cluster": map[string]any{"server": serverConfig.Host, "certificate-authority-data": serverConfig.CAData},
		}}},
	}
	for runIn, want := range map[string]int{"Broker": cli.ExitOK, "Pod": cli.ExitFailed} {
		outer := write(runIn+".yaml", profile, map[string]any{
			"apiVersion": "keyferry.dev/v1alpha1", "kind": "TargetCluster", "metadata": map[string]string{"namespace": "fleet", "name": "tenant-2"},
			"spec": map[string]any{
				"clusterProfile": map[string]string{"namespace": "fleet", "name": "tenant-2"},
				"access":         map[string]any{"type": "Exec", "exec": map[string]string{"provider": "keyferry", "runIn": runIn}},
				"issue":          map[string]string{"type": "Access"},
			},
		})
		var out, errOut strings.Builder
		code := cli.Run(t.Context(), genericiooptions.IOStreams{Out: &out, ErrOut: &errOut}, []string{"keyferry", "credential", "-f", outer, "--provider-file", providers, "-o", "kubeconfig"})
		if code != want {
			t.Errorf("%s: exit code %d, want %d: %s", runIn, code, want, errOut.String())
		}
		if code != cli.ExitOK {
			if !strings.Contains(errOut.String(), "spec.access.exec.runIn is Pod") {
				t.Errorf("%s: %s", runIn, errOut.String())
			}
			continue
		}
		cfg, err := clientcmd.RESTConfigFromKubeConfig([]byte(out.String()))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := whoAmI(t, cfg); err != nil || got != "system:serviceaccount:"+namespace+":robot" {
			t.Errorf("the server knows %q: %v", got, err)
		}
	}
}
