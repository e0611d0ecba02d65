// Package apitest creates injected Pods on a real API server.
package apitest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
)

var (
	apiServer *rest.Config
	client    kubernetes.Interface
)

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { apiServer, client = cfg, kubernetes.NewForConfigOrDie(cfg) }))
}

// TestAPIServerAcceptsInjectedPods checks that the API server accepts all injected Pods, and that
// after its defaults there is nothing more to inject.
func TestAPIServerAcceptsInjectedPods(t *testing.T) {
	const namespace = "shop"
	createNamespace(t, namespace, nil)
	files, err := filepath.Glob("../testdata/inject/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no Pods", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		if strings.HasSuffix(name, ".golden") {
			continue
		}
		for _, able := range []bool{true, false} {
			t.Run(name+map[bool]string{true: "/able cluster", false: "/other cluster"}[able], func(t *testing.T) {
				raw := readPod(t, file, namespace)
				i := installation{able: able, plugin: strings.Contains(name, "plugin")}
				if strings.HasPrefix(name, "federated") {
					i.audience = "tenant-1.example.com"
				}
				if strings.HasPrefix(name, "secret") {
					i.secret = "tenant-1"
				}
				ops, err := i.inject(t, raw)
				if err != nil || len(ops) == 0 {
					t.Skip("not injected:", err)
				}
				created := create(t, namespace, apply(t, raw, ops))
				if again, err := i.inject(t, created); err != nil || len(again) > 0 {
					t.Errorf("injecting it again gives %v, %v", again, err)
				}
			})
		}
	}
}

// TestRestrictedPodStaysRestricted: Pod Security makes no exception for Keyferry.
func TestRestrictedPodStaysRestricted(t *testing.T) {
	const namespace = "restricted"
	createNamespace(t, namespace, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	raw := readPod(t, "../testdata/inject/restricted.yaml", namespace)
	for name, i := range map[string]installation{
		"plain": {able: true}, "plugin in a volume": {able: true, plugin: true}, "plugin copied": {plugin: true}, "federated": {able: true, audience: "tenant-1.example.com"}, "secret": {able: true, secret: "tenant-1"},
	} {
		t.Run(name, func(t *testing.T) {
			ops, err := i.inject(t, raw)
			if err != nil {
				t.Fatal(err)
			}
			create(t, namespace, apply(t, raw, ops))
		})
	}
}

// TestTokenForTheBroker: the API server does not accept the token that is for the broker.
func TestTokenForTheBroker(t *testing.T) {
	const namespace = "tokens"
	createNamespace(t, namespace, nil)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// review returns the error of the API server for a token that was requested as the kubelet does.
	review := func(audience string) error {
		request := &authenticationv1.TokenRequest{}
		if audience != "" {
			request.Spec.Audiences = []string{audience}
		}
		issued, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account.Name, request, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cfg := rest.AnonymousClientConfig(apiServer)
		cfg.BearerToken = issued.Status.Token
		_, err = kubernetes.NewForConfigOrDie(cfg).AuthenticationV1().SelfSubjectReviews().
			Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err
	}
	if err := review(""); err != nil {
		t.Fatalf("the API server rejects its own token: %v", err)
	}

	raw := readPod(t, "../testdata/inject/restricted.yaml", namespace)
	i := installation{able: true}
	ops, err := i.inject(t, raw)
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := json.Unmarshal(apply(t, raw, ops), &pod); err != nil {
		t.Fatal(err)
	}
	tokens := 0
	for _, volume := range pod.Spec.Volumes {
		if volume.Name != injector.IdentityVolume {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ServiceAccountToken == nil {
				continue
			}
			tokens++
			if err := review(source.ServiceAccountToken.Audience); !apierrors.IsUnauthorized(err) {
				t.Errorf("audience %q: the API server answers %v", source.ServiceAccountToken.Audience, err)
			}
		}
	}
	if tokens != 1 {
		t.Errorf("the Pod has %d tokens for the broker", tokens)
	}
}

func createNamespace(t *testing.T, name string, labels map[string]string) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// create creates a Pod as a dry run, and returns it as it would be stored.
func create(t *testing.T, namespace string, pod []byte) []byte {
	t.Helper()
	created, err := tryCreate(t, namespace, pod)
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func tryCreate(t *testing.T, namespace string, pod []byte) ([]byte, error) {
	t.Helper()
	created, err := client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").
		VersionedParams(&metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}, metav1.ParameterCodec).
		SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(pod).DoRaw(t.Context())
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, created)
	}
	return created, nil
}

// installation returns an installation with all features of the cluster's Kubernetes that injection
// uses, or with none.
type installation struct {
	able, plugin bool
	audience     string // of a federated target
	secret       string // of a CredentialRequest
}

func (i installation) inject(t *testing.T, raw []byte) ([]injector.Operation, error) {
	t.Helper()
	pod, err := injector.DecodePod(raw)
	if err != nil {
		t.Fatal(err)
	}
	want, err := injector.ParseAnnotations(pod.Metadata.Annotations, "shop")
	if err != nil {
		return nil, err
	}
	further := slices.Repeat([]injector.Target{{Namespace: "default"}}, len(want.Clusters))
	target := injector.Target{Namespace: "default", Further: further, Endpoint: "https://203.0.113.7:6443", Delivery: "Direct", Federation: injector.Federation{Audience: i.audience}, Secret: i.secret}
	if i.plugin {
		target.Plugin = &injector.Plugin{
			Image: "example.com/plugin:1", Command: "/plugin", Args: []string{"$(X)"}, Env: []corev1.EnvVar{{Name: "X", Value: "$Y"}}, APIVersion: "client.authentication.k8s.io/v1",
		}
	}
	result, err := injector.Inject(pod, want, target, injector.Config{
		Image:         "ghcr.io/keyferry/refresher:v0.1.0",
		Resources:     injector.DefaultResources(),
		BrokerURL:     "https://keyferry-broker.keyferry-system.svc",
		BrokerAddress: "10.96.4.2",
		EnvFromFile:   i.able && testenv.Has(testenv.EnvFromFile),
		ImageVolume:   i.able && testenv.Has(testenv.ImageVolume),
		Version:       "v0.1.0",
	})
	return result.Operations, err
}

func apply(t *testing.T, raw []byte, ops []injector.Operation) []byte {
	t.Helper()
	encoded, err := json.Marshal(ops)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(encoded)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := patch.Apply(raw)
	if err != nil {
		t.Fatal(err)
	}
	return patched
}

// readPod reads a Pod and changes it like the ServiceAccount admission plugin, which envtest
// disables.
func readPod(t *testing.T, file, namespace string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	return apply(t, raw, []injector.Operation{
		{Op: "add", Path: "/metadata/namespace", Value: namespace},
		{Op: "add", Path: "/spec/serviceAccountName", Value: "default"},
	})
}
