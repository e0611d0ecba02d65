package issuer_test

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer/resolve"
)

// foreign are types of Secrets that hold credentials for something else than a target.
var foreign = []corev1.SecretType{
	corev1.SecretTypeServiceAccountToken, corev1.SecretTypeDockercfg, corev1.SecretTypeDockerConfigJson, corev1.SecretTypeBasicAuth,
	corev1.SecretTypeSSHAuth, corev1.SecretTypeTLS, corev1.SecretTypeBootstrapToken, "helm.sh/release.v1", "unknown.example.com/v1",
}

// TestForeignSecretsAreNotSent: the users who write TargetClusters choose the server that content
// of a Secret is sent to.
func TestForeignSecretsAreNotSent(t *testing.T) {
	refused := func(t *testing.T, err error, name string, kind corev1.SecretType) {
		t.Helper()
		invalid, ok := errors.AsType[*resolve.InvalidError](err)
		if !ok || invalid.Reason != resolve.ReasonInvalidSecretType || !strings.Contains(invalid.Message, "Secret "+name+" has the type "+string(kind)) {
			t.Errorf("%s: got %v", kind, err)
		}
	}
	for _, kind := range foreign {
		w := newWorld(t)
		w.secret.Type = kind
		_, err := w.issuer.Issue(t.Context(), tenant, web)
		refused(t, err, "fleet/tenant-1-kubeconfig", kind)
		if w.issued > 0 {
			t.Errorf("%s: the kubeconfig was used", kind)
		}
	}
	foreign := append(foreign, "cluster.x-k8s.io/secret", "connection.crossplane.io/v1alpha1")
	eachProvider(t, func(t *testing.T, access v1alpha1.AccessType) {
		for _, kind := range foreign {
			p := newPair(t, access, v1alpha1.Issue{Type: v1alpha1.IssueAccess})
			p.secret().Type = kind
			_, err := p.ask("tenant-1")
			refused(t, err, "fleet/tenant-1-keys", kind)
			if p.asked > 0 {
				t.Errorf("%s: content of the Secret was sent", kind)
			}
		}
	})
}

func TestSecretTypesOfKubeconfigs(t *testing.T) {
	for _, kind := range []corev1.SecretType{"", corev1.SecretTypeOpaque, "cluster.x-k8s.io/secret", "connection.crossplane.io/v1alpha1"} {
		w := newWorld(t)
		w.secret.Type = kind
		if _, err := w.issuer.Issue(t.Context(), tenant, web); err != nil {
			t.Errorf("type %q: %v", kind, err)
		}
	}
}
