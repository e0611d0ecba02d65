package v1alpha1_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// createRequest has the API server judge a CredentialRequest; nothing is stored.
func createRequest(t *testing.T, name, spec string) error {
	t.Helper()
	fields := map[string]any{}
	if err := yaml.Unmarshal([]byte(spec), &fields); err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": fields}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("CredentialRequest"))
	u.SetName(name)
	_, err := credentialRequests.Create(t.Context(), u, metav1.CreateOptions{
		DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict,
	})
	return err
}

const forWeb = "targetCluster: {namespace: fleet, name: tenant-1}\nserviceAccountName: web\n"

func TestRequestAccepted(t *testing.T) {
	for name, spec := range map[string]string{
		"least":      forWeb + "type: tokenFile\nsecret: {name: a}",
		"all fields": forWeb + "type: kubeconfig\nduration: 90m\nsecret: {name: a.b, key: value, labels: {a: b, example.com/c: ''}, annotations: {d: 'any text, {even: this}'}}",
		"Argo CD":    forWeb + "type: argocd\nduration: 48h\nsecret: {name: a, labels: {environment: prod}}",
	} {
		t.Run(name, func(t *testing.T) {
			if err := createRequest(t, "web", spec); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestRequestRefused(t *testing.T) {
	secret := "type: tokenFile\nsecret: {name: a}\n"
	for _, tt := range []struct{ name, spec, want string }{
		{"nothing", "{}", "spec.targetCluster: Required value"},
		{"no target's namespace", "targetCluster: {name: a}\nserviceAccountName: web\n" + secret, "spec.targetCluster.namespace: Required value"},
		{"no account", "targetCluster: {namespace: fleet, name: tenant-1}\n" + secret, "spec.serviceAccountName: Required value"},
		{"no type", forWeb + "secret: {name: a}", "spec.type: Required value"},
		{"type in capitals", forWeb + "type: Kubeconfig\nsecret: {name: a}", `supported values: "kubeconfig", "tokenFile", "argocd"`},
		{"no Secret", forWeb + "type: tokenFile", "spec.secret: Required value"},
		{"Secret elsewhere", forWeb + "type: tokenFile\nsecret: {name: a, namespace: kube-system}", `unknown field "spec.secret.namespace"`},
		{"Secret by a path", forWeb + "type: tokenFile\nsecret: {name: ../a}", "spec.secret.name"},
		{"key of a tokenFile", forWeb + "type: tokenFile\nsecret: {name: a, key: token}", "secret.key is supported only with type kubeconfig: the keys of the other types are fixed"},
		{"key by a path", forWeb + "type: kubeconfig\nsecret: {name: a, key: a/b}", "spec.secret.key"},
		{"too short", forWeb + "duration: 9m\n" + secret, "duration must be from 10m to 48h"},
		{"too long", forWeb + "duration: 49h\n" + secret, "duration must be from 10m to 48h"},
		{"label of Keyferry", forWeb + "type: tokenFile\nsecret: {name: a, labels: {keyferry.dev/credential-request: other}}", "labels must not begin with keyferry.dev/"},
		{"annotation of Keyferry", forWeb + "type: tokenFile\nsecret: {name: a, annotations: {keyferry.dev/credential: '{}'}}", "annotations must not begin with keyferry.dev/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := createRequest(t, "web", tt.spec); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
	if err := createRequest(t, strings.Repeat("a", 64), forWeb+secret); err == nil || !strings.Contains(err.Error(), "the name must have at most 63 characters") {
		t.Errorf("a name that is no label's value: %v", err)
	}
}

// TestRequestSamples: what users copy is accepted.
func TestRequestSamples(t *testing.T) {
	samples, err := filepath.Glob(filepath.Join("..", "..", "config", "samples", "credentialrequest-*.yaml"))
	if err != nil || len(samples) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, file := range samples {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		requests := 0
		for _, document := range strings.Split(string(text), "\n---\n") {
			var object struct {
				Kind     string            `json:"kind"`
				Metadata metav1.ObjectMeta `json:"metadata"`
				Spec     map[string]any    `json:"spec"`
			}
			if err := yaml.Unmarshal([]byte(document), &object); err != nil {
				t.Fatal(err)
			}
			if object.Kind != "CredentialRequest" {
				continue
			}
			requests++
			spec, err := yaml.Marshal(object.Spec)
			if err != nil {
				t.Fatal(err)
			}
			if err := createRequest(t, object.Metadata.Name, string(spec)); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		if requests == 0 {
			t.Errorf("%s has no CredentialRequest", file)
		}
	}
}
