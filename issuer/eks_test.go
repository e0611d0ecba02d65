package issuer_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/aws-iam-authenticator/pkg/token"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/eks/ststest"
)

// authenticator is an EKS cluster: it has the authenticator of these judge who asks, and answers
// TokenRequests with the name of the ServiceAccount and of who asked.
func authenticator(t *testing.T, cluster string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		identity, err := token.NewVerifier(cluster, "aws", "eu-central-1").Verify(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
		if err != nil {
			t.Errorf("cluster %s: %v", cluster, err)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
			"status": map[string]any{
				"token":               path.Base(path.Dir(req.URL.Path)) + " by " + path.Base(identity.ARN),
				"expirationTimestamp": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
			},
		})
	}
}

// TestTokensOfEachPodByEKS: two EKS clusters are entered with a key each, and each Pod is given a
// token of the ServiceAccount of its own name.
func TestTokensOfEachPodByEKS(t *testing.T) {
	s := ststest.New(t)
	outside.Serve(t, "sts.eu-central-1.amazonaws.com", s) // where the authenticators ask
	p := newPair(t, v1alpha1.AccessEKS, v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
		ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountMirror},
	}})
	p.now = time.Now()
	for _, name := range []string{"tenant-1", "tenant-2"} {
		s.Keys[name] = ststest.Key{Secret: planted, ARN: "arn:aws:iam::" + ststest.Account + ":user/of-" + name}
		target := httptest.NewTLSServer(authenticator(t, name))
		t.Cleanup(target.Close)
		p.objects[types.NamespacedName{Namespace: "fleet", Name: name}].(*v1alpha1.TargetCluster).Spec.Endpoint =
			&v1alpha1.Endpoint{Server: target.URL, CertificateAuthorityData: (&world{target: target}).ca()}
	}
	for cluster, want := range map[string]string{"tenant-1": " by of-tenant-1", "tenant-2": " by of-tenant-2"} {
		for _, account := range []string{"web", "worker"} {
			req := providers.Request{Identity: providers.Identity{Namespace: "app", ServiceAccount: account, ServiceAccountUID: account}}
			issued, err := p.issuer.Issue(t.Context(), types.NamespacedName{Namespace: "fleet", Name: cluster}, req)
			if err != nil {
				t.Fatal(err)
			}
			if issued.Token != account+want {
				t.Errorf("%s in %s is given a token of %s", account, cluster, issued.Token)
			}
		}
	}
}

func TestWorkloadIdentityByEKS(t *testing.T) {
	p := newPair(t, v1alpha1.AccessEKS, handOn)
	p.cluster().Spec.Access.EKS = &v1alpha1.EKSAccess{
		ClusterName: "tenant-1", Region: "eu-central-1", Identity: v1alpha1.IdentityWorkload, RoleARN: "arn:aws:iam::" + ststest.Account + ":role/web",
	}
	got, err := p.issuer.Resolve(t.Context(), p.cluster())
	if err != nil || got.SubjectAudience != "sts.amazonaws.com" {
		t.Errorf("Pods need a token for %q: %v", got.SubjectAudience, err)
	}
}
