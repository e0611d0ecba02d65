package tokenrequest_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/providers"
)

// revocable makes a Provider of tokens that can be revoked.
func revocable(t *testing.T, namespace, owner string) providers.Revoker {
	t.Helper()
	cfg := fixed(namespace)
	cfg.Revocable, cfg.Owner = true, owner
	return provider(t, cfg)
}

func TestRevoke(t *testing.T) {
	ns := server.namespace(t)
	server.account(t, ns, "deployer", nil)
	p := revocable(t, ns, "cluster/fleet/tenant-1")
	one, other := providers.Request{Holder: "app/one/1"}, providers.Request{Holder: "app/other/2"}
	first, second, shared := issue(t, p, one), issue(t, p, other), issue(t, p, providers.Request{})
	name := p.Revocation(one)
	if !strings.HasPrefix(name, ns+"/keyferry-deployer-") || name == p.Revocation(other) || name == p.Revocation(providers.Request{}) {
		t.Fatalf("revocations %q, %q and %q", name, p.Revocation(other), p.Revocation(providers.Request{}))
	}

	if err := p.Revoke(t.Context(), other, name); err != nil {
		t.Fatal(err)
	}
	if !server.review(t, first.Token).Authenticated {
		t.Fatal("another holder has revoked the token")
	}
	for range 2 { // the second time it is gone already
		if err := p.Revoke(t.Context(), one, name); err != nil {
			t.Fatal(err)
		}
	}
	_, err := server.CoreV1().Secrets(ns).Get(t.Context(), strings.TrimPrefix(name, ns+"/"), metav1.GetOptions{})
	if err == nil {
		t.Error("the Secret that the token is bound to is still there")
	}
	if !server.review(t, second.Token).Authenticated || !server.review(t, shared.Token).Authenticated {
		t.Error("tokens of others were revoked, too")
	}
}

func TestRevokeOfOtherTargetCluster(t *testing.T) {
	ns := server.namespace(t)
	server.account(t, ns, "deployer", nil)
	mine, theirs := revocable(t, ns, "cluster/fleet/tenant-1"), revocable(t, ns, "cluster/fleet/tenant-2")
	req := providers.Request{Holder: "app/one/1"}
	issue(t, mine, req)
	name := mine.Revocation(req)
	if err := theirs.Revoke(t.Context(), req, name); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{}
	if err := server.CoreV1().RESTClient().Get().Namespace(ns).Resource("secrets").Name(strings.TrimPrefix(name, ns+"/")).Do(t.Context()).Into(secret); err != nil {
		t.Errorf("the Secret of another TargetCluster: %v", err)
	}
}

func TestShorterDuration(t *testing.T) {
	ns := server.namespace(t)
	server.account(t, ns, "deployer", nil)
	p := provider(t, fixed(ns)) // an hour
	for name, tt := range map[string]struct{ asked, want time.Duration }{
		"not said":  {0, time.Hour},
		"shorter":   {20 * time.Minute, 20 * time.Minute},
		"longer":    {2 * time.Hour, time.Hour},
		"too short": {time.Minute, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			life := time.Until(issue(t, p, providers.Request{Duration: tt.asked}).NotAfter)
			if life > tt.want || life < tt.want-time.Minute {
				t.Errorf("lives for %v, want %v", life, tt.want)
			}
		})
	}
}
