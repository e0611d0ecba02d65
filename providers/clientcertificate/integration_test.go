package clientcertificate_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	certmanager "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/clientcertificate"
)

func selfSubjectReview() *authenticationv1.SelfSubjectReview {
	return &authenticationv1.SelfSubjectReview{}
}

// TestRealCertManager: approver, issuer and target are the real ones.
func TestRealCertManager(t *testing.T) {
	w := newWorld(t)
	stop, err := realOne.Start(t.Context(), "-controllers=certificaterequests-approver", "-namespace="+w.namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	var made []*cmapi.CertificateRequest
	seen := make(chan struct{})
	w.each(func(r *cmapi.CertificateRequest) { made = append(made, r); close(seen) })

	credential, err := provider(t, w.config()).Issue(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	name, groups := w.whoami(credential)
	if name != "app:web" || !slices.Contains(groups, "pods") || !slices.Contains(groups, "of:app") {
		t.Errorf("the target takes it for %s of %v, want app:web of pods and of:app", name, groups)
	}
	block, _ := pem.Decode(credential.ClientCertificate)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !cert.NotAfter.Equal(credential.NotAfter) || time.Until(cert.NotAfter) > time.Hour || time.Until(cert.NotAfter) < 50*time.Minute {
		t.Errorf("it ends at %v and is said to end at %v, want an hour from now", cert.NotAfter, credential.NotAfter)
	}
	if credential.Endpoint.Server != "https://target.example:6443" {
		t.Errorf("the endpoint is %v", credential.Endpoint)
	}
	if left := w.requests(); len(left) != 0 {
		t.Errorf("requests are left: %v", left)
	}
	<-seen
	r := made[0]
	if r.Labels["keyferry.dev/purpose"] != "client-certificate" || r.Annotations["keyferry.dev/target-cluster"] != "tenant-1" ||
		r.Annotations["keyferry.dev/service-account"] != "app/web" || r.Annotations["keyferry.dev/pod"] != "web-0" ||
		len(r.OwnerReferences) != 1 || r.OwnerReferences[0].UID != w.owner.UID {
		t.Errorf("the request does not say whose it is: %+v", r.ObjectMeta)
	}
}

// TestKeptUntilApproved: who gives up waiting finds the same request again, and its key.
func TestKeptUntilApproved(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	err := w.waitsInVain(provider(t, cfg), web)
	if !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "waits for approval") {
		t.Fatalf("got %v, want that it waits for approval", err)
	}
	waiting := w.only()
	if all, err := json.Marshal(waiting); err != nil || hasKey(all) {
		t.Errorf("the request holds a private key: %s (%v)", all, err)
	}
	if !strings.Contains(err.Error(), waiting.Namespace+"/"+waiting.Name) {
		t.Errorf("%v does not name the request", err)
	}

	w.say(&waiting, nil, approved())
	// Another Provider, as after an hour or a change of the spec that makes no difference.
	credential, err := provider(t, cfg).Issue(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	if name, _ := w.whoami(credential); name != "app:web" {
		t.Errorf("the target takes it for %s", name)
	}
	if left := w.requests(); len(left) != 0 {
		t.Errorf("requests are left: %v", left)
	}
}

func TestApprovedWhileWaiting(t *testing.T) {
	w := newWorld(t)
	w.each(func(r *cmapi.CertificateRequest) { w.say(r, nil, approved()) })
	p := provider(t, w.config())
	for range 3 { // renewals
		if _, err := p.Issue(t.Context(), web); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOtherwise: a change that makes a difference makes another request.
func TestOtherwise(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	if err := w.waitsInVain(provider(t, cfg), web); !errors.Is(err, providers.ErrUnavailable) {
		t.Fatal(err)
	}
	first := w.only()
	cfg.Organizations = nil
	w.each(func(r *cmapi.CertificateRequest) {
		if r.UID != first.UID {
			w.say(r, nil, approved())
		}
	})
	credential, err := provider(t, cfg).Issue(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	if _, groups := w.whoami(credential); slices.Contains(groups, "pods") {
		t.Errorf("the groups are still %v", groups)
	}
}

func TestRefused(t *testing.T) {
	no := cmmeta.ConditionFalse
	yes := cmmeta.ConditionTrue
	ready := cmapi.CertificateRequestConditionReady
	for name, test := range map[string]struct {
		say  []condition
		want string
	}{
		"denied": {
			[]condition{is(cmapi.CertificateRequestConditionDenied, yes, "policy.cert-manager.io", "No policy\napproved")},
			"it was denied: policy.cert-manager.io: No policy approved",
		},
		"failed": {
			[]condition{approved(), is(ready, no, cmapi.CertificateRequestReasonFailed, "vault is sealed")},
			"it failed: Failed: vault is sealed",
		},
		"invalid": {
			[]condition{approved(), is(cmapi.CertificateRequestConditionInvalidRequest, yes, "BadName", "no such role")},
			"the issuer finds it invalid: BadName: no such role",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.each(func(r *cmapi.CertificateRequest) { w.say(r, nil, test.say...) })
			p := provider(t, w.external())
			for range 2 {
				_, err := p.Issue(t.Context(), web)
				if !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("got %v, want %s", err, test.want)
				}
			}
			first := w.only() // it is there to be looked at, and no other was made

			w.now = func() time.Time { return time.Now().Add(5 * time.Minute) }
			if _, err := p.Issue(t.Context(), web); !errors.Is(err, providers.ErrRefused) {
				t.Fatal(err)
			}
			second := w.only()
			if second.UID == first.UID {
				t.Error("after 5 minutes there is still the same request")
			}

			if err := certs.CertificateRequests(w.namespace).Delete(t.Context(), second.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Issue(t.Context(), web); !errors.Is(err, providers.ErrUnavailable) {
				t.Errorf("got %v, want that it is gone", err)
			}
			if _, err := p.Issue(t.Context(), web); !errors.Is(err, providers.ErrRefused) {
				t.Errorf("got %v, want another request", err)
			}
			if third := w.only(); third.UID == second.UID {
				t.Error("no other request was made")
			}
		})
	}
}

// signed is a certificate for a request, after a change.
func signed(t *testing.T, r *cmapi.CertificateRequest, change func(*x509.Certificate)) []byte {
	t.Helper()
	block, _ := pem.Decode(r.Spec.Request)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	caBlock, _ := pem.Decode(authority.cert)
	ca, err := x509.ParseCertificate(caBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	keyBlock, _ := pem.Decode(authority.key)
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: csr.Subject, PublicKey: csr.PublicKey,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, ca, template.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestWrongCertificates: an issuer is not trusted to do as it is asked.
func TestWrongCertificates(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*x509.Certificate)
		append string
		want   string
	}{
		"another user": {func(c *x509.Certificate) { c.Subject.CommonName = "admin" },
			"", `has the subject "CN=admin,O=of:app+O=pods" instead of "CN=app:web,O=of:app+O=pods"`},
		"another group":     {func(c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} }, "", "system:masters"},
		"one group more":    {func(c *x509.Certificate) { c.Subject.Organization = []string{"of:app", "pods", "root"} }, "", "root"},
		"another key":       {func(c *x509.Certificate) { c.PublicKey = &other.PublicKey }, "", "is for another key"},
		"an authority":      {func(c *x509.Certificate) { c.IsCA = true }, "", "is a CA certificate"},
		"for servers":       {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "", "lacks the usage client auth"},
		"ended":             {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, "", "check the clocks"},
		"not yet":           {func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }, "", "check the clocks"},
		"something else":    {func(*x509.Certificate) {}, "hello", "is no PEM of certificates"},
		"a broken one more": {func(*x509.Certificate) {}, "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", "is malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.each(func(r *cmapi.CertificateRequest) {
				w.say(r, append(signed(t, r, test.change), test.append...), approved(),
					is(cmapi.CertificateRequestConditionReady, cmmeta.ConditionTrue, cmapi.CertificateRequestReasonIssued, "done"))
			})
			_, err := provider(t, w.external()).Issue(t.Context(), web)
			if !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// TestSlowIssuer: what an issuer says while it does nothing is told.
func TestSlowIssuer(t *testing.T) {
	w := newWorld(t)
	cfg := w.external()
	p := provider(t, cfg)
	if err := w.waitsInVain(p, web); !errors.Is(err, providers.ErrUnavailable) {
		t.Fatal(err)
	}
	r := w.only()
	w.say(&r, nil, approved(), is(cmapi.CertificateRequestConditionReady, cmmeta.ConditionFalse, cmapi.CertificateRequestReasonPending, "asking vault"))
	if err := w.waitsInVain(p, web); !errors.Is(err, providers.ErrUnavailable) ||
		!strings.Contains(err.Error(), "is approved and waits for its issuer: Pending: asking vault") {
		t.Errorf("got %v", err)
	}
}

// TestDeletedWhileWaiting: somebody cleans up too much.
func TestDeletedWhileWaiting(t *testing.T) {
	w := newWorld(t)
	w.each(func(r *cmapi.CertificateRequest) {
		if err := certs.CertificateRequests(r.Namespace).Delete(context.Background(), r.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	_, err := provider(t, w.config()).Issue(t.Context(), web)
	if !errors.Is(err, providers.ErrUnavailable) || !strings.Contains(err.Error(), "was deleted") {
		t.Errorf("got %v, want that it was deleted", err)
	}
}

// TestRestart: what a process leaves is removed by the next, once nobody can be waiting for it.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	if err := w.waitsInVain(provider(t, w.external()), web); !errors.Is(err, providers.ErrUnavailable) {
		t.Fatal(err)
	}
	undecided := w.only()
	foreign := undecided.DeepCopy()
	foreign.ObjectMeta = metav1.ObjectMeta{Namespace: w.namespace, Name: "foreign"}
	if _, err := certs.CertificateRequests(w.namespace).Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	decided := undecided.DeepCopy()
	decided.ObjectMeta = metav1.ObjectMeta{Namespace: w.namespace, Name: "decided", Labels: undecided.Labels}
	decided, err := certs.CertificateRequests(w.namespace).Create(t.Context(), decided, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.say(decided, nil, is(cmapi.CertificateRequestConditionDenied, cmmeta.ConditionTrue, "Policy", "no"))

	names := func() []string {
		var all []string
		for _, r := range w.requests() {
			if r.Name == undecided.Name || r.Name == decided.Name || r.Name == foreign.Name {
				all = append(all, r.Name)
			}
		}
		return all
	}
	for _, step := range []struct {
		after time.Duration
		left  []string
	}{
		{0, []string{decided.Name, foreign.Name, undecided.Name}},
		{11 * time.Minute, []string{foreign.Name, undecided.Name}},
		{25 * time.Hour, []string{foreign.Name}},
	} {
		w.now = func() time.Time { return time.Now().Add(step.after) }
		if err := w.waitsInVain(provider(t, w.external()), web); !errors.Is(err, providers.ErrUnavailable) {
			t.Fatal(err)
		}
		if got := names(); !slices.Equal(got, step.left) {
			t.Errorf("after %v there are %v, want %v", step.after, got, step.left)
		}
	}
}

// TestForgotten: requests that nobody waits for any more are removed.
func TestForgotten(t *testing.T) {
	w := newWorld(t)
	cfg := w.external()
	cfg.CommonName = "${podUID}"
	p := provider(t, cfg)
	if err := w.waitsInVain(p, web); !errors.Is(err, providers.ErrUnavailable) {
		t.Fatal(err)
	}
	first := w.only()
	w.now = func() time.Time { return time.Now().Add(11 * time.Minute) }
	other := web
	other.Identity.PodUID = "another"
	w.each(func(r *cmapi.CertificateRequest) {
		if r.UID != first.UID {
			w.say(r, nil, is(cmapi.CertificateRequestConditionDenied, cmmeta.ConditionTrue, "Policy", "no"))
		}
	})
	if _, err := p.Issue(t.Context(), other); !errors.Is(err, providers.ErrRefused) {
		t.Fatal(err)
	}
	if left := w.only(); left.UID == first.UID {
		t.Error("the request of a Pod that does not ask any more is still there")
	}
}

// as returns the API as a user sees it who has these rights on CertificateRequests.
func (w *world) as(verbs ...string) *certmanager.CertmanagerV1Client {
	w.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "broker"}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"cert-manager.io"}, Resources: []string{"certificaterequests"}, Verbs: verbs,
	}}}
	if len(verbs) > 0 {
		if _, err := server.RbacV1().Roles(w.namespace).Create(w.Context(), role, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
		if _, err := server.RbacV1().RoleBindings(w.namespace).Create(w.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "broker"},
			RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "broker"},
			Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: "broker-" + w.namespace}},
		}, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
	}
	cfg := rest.CopyConfig(serverConfig)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "broker-" + w.namespace}
	api, err := certmanager.NewForConfig(cfg)
	if err != nil {
		w.Fatal(err)
	}
	return api
}

func TestForbidden(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Requests = clientcertificate.NewRequests(w.as(), nil)
	_, err := provider(t, cfg).Issue(t.Context(), web)
	if !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), "add the namespace to the chart value secretAccess.namespaces") {
		t.Errorf("got %v, want the fix", err)
	}
}

// TestRights: what the chart grants is enough; and without watch it goes slower.
func TestRights(t *testing.T) {
	for name, verbs := range map[string][]string{
		"those of the chart": {"create", "get", "list", "watch", "delete"},
		"without watch":      {"create", "get", "list", "delete"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			cfg := w.config()
			cfg.Requests = clientcertificate.NewRequests(w.as(verbs...), nil)
			w.each(func(r *cmapi.CertificateRequest) { w.say(r, nil, approved()) })
			if _, err := provider(t, cfg).Issue(t.Context(), web); err != nil {
				t.Error(err)
			}
			if left := w.requests(); len(left) != 0 {
				t.Errorf("requests are left: %v", left)
			}
		})
	}
}
