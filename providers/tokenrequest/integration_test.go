package tokenrequest_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/tokenrequest"
)

// api is the API server that plays the target, and an administrator's clients.
type api struct {
	config *rest.Config
	*kubernetes.Clientset
}

var server api // set by TestMain

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		server = api{cfg, kubernetes.NewForConfigOrDie(cfg)}
	}))
}

// admin is full access to the target.
func (a api) admin() access {
	return access{providers.Credential{
		ClientCertificate: a.config.CertData,
		ClientKey:         a.config.KeyData,
		NotAfter:          time.Now().Add(time.Hour),
		Endpoint:          endpoint.Endpoint{Server: a.config.Host, CertificateAuthority: a.config.CAData},
	}}
}

// namespace creates a namespace for one test.
func (a api) namespace(t *testing.T) string {
	t.Helper()
	ns, err := a.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

func (a api) account(t *testing.T, namespace, name string, annotations map[string]string) *corev1.ServiceAccount {
	t.Helper()
	sa, err := a.CoreV1().ServiceAccounts(namespace).Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return sa
}

func (a api) review(t *testing.T, token string, audiences ...string) authenticationv1.TokenReviewStatus {
	t.Helper()
	review, err := a.AuthenticationV1().TokenReviews().Create(t.Context(),
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status
}

// fixed is the Config for the account of this name, with all access.
func fixed(namespace string) tokenrequest.Config {
	cfg := config(server.admin())
	cfg.ServiceAccount.Namespace = namespace
	return cfg
}

func issue(t *testing.T, p providers.Provider, req providers.Request) providers.Credential {
	t.Helper()
	credential, err := p.Issue(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return credential
}

func TestFixed(t *testing.T) {
	ns := server.namespace(t)
	server.account(t, ns, "deployer", nil)
	got := issue(t, provider(t, fixed(ns)), providers.Request{})
	review := server.review(t, got.Token)
	if want := "system:serviceaccount:" + ns + ":deployer"; !review.Authenticated || review.User.Username != want {
		t.Errorf("the token is of %+v, want %s", review, want)
	}
	if life := time.Until(got.NotAfter); life < 59*time.Minute || life > time.Hour {
		t.Errorf("lives for %v, want 1h", life)
	}
}

func TestMirror(t *testing.T) {
	ns := server.namespace(t)
	server.account(t, ns, "web", nil)
	cfg := fixed(ns)
	cfg.ServiceAccount = types.NamespacedName{}
	p := provider(t, cfg)
	web := providers.Request{Identity: providers.Identity{Namespace: ns, ServiceAccount: "web"}}
	if review := server.review(t, issue(t, p, web).Token); review.User.Username != web.Identity.String() {
		t.Errorf("the token is of %+v, want %s", review, web.Identity)
	}
	web.Identity.ServiceAccount = "db"
	_, err := p.Issue(t.Context(), web)
	if !errors.Is(err, providers.ErrNotFound) || !strings.Contains(err.Error(), "ServiceAccount "+ns+"/db does not exist") {
		t.Errorf("missing account: %v", err)
	}
}

func TestCreate(t *testing.T) {
	ns := server.namespace(t)
	cfg := fixed(ns)
	cfg.Create = true
	p := provider(t, cfg)
	first := issue(t, p, providers.Request{})
	if review := server.review(t, first.Token); !review.Authenticated {
		t.Errorf("the token of a created account is refused: %v", review.Error)
	}
	created, err := server.CoreV1().ServiceAccounts(ns).Get(t.Context(), "deployer", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := created.Annotations["keyferry.dev/owner"]; got != cfg.Owner {
		t.Errorf("marked with %q, want %q", got, cfg.Owner)
	}
	issue(t, p, providers.Request{})
	again, err := server.CoreV1().ServiceAccounts(ns).Get(t.Context(), "deployer", metav1.GetOptions{})
	if err != nil || again.ResourceVersion != created.ResourceVersion {
		t.Errorf("the account was changed by a second issue, or is gone: %v", err)
	}
}

func TestCreateAdoptsNothing(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"unmarked":      nil,
		"somebody else": {"keyferry.dev/owner": "another-cluster/fleet/tenant-1"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := server.namespace(t)
			existing := server.account(t, ns, "deployer", annotations)
			cfg := fixed(ns)
			cfg.Create = true
			_, err := provider(t, cfg).Issue(t.Context(), providers.Request{})
			if !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), "remove create") {
				t.Errorf("got %v", err)
			}
			after, err := server.CoreV1().ServiceAccounts(ns).Get(t.Context(), "deployer", metav1.GetOptions{})
			if err != nil || after.ResourceVersion != existing.ResourceVersion {
				t.Errorf("the account was changed, or is gone: %v", err)
			}
		})
	}
}

func TestCreateNeedsNamespace(t *testing.T) {
	cfg := fixed("not-there")
	cfg.Create = true
	_, err := provider(t, cfg).Issue(t.Context(), providers.Request{})
	if !errors.Is(err, providers.ErrNotFound) || !strings.Contains(err.Error(), "namespace not-there does not exist") {
		t.Errorf("got %v", err)
	}
}

func TestAudiences(t *testing.T) {
	ns := server.namespace(t)
	server.account(t, ns, "deployer", nil)
	cfg := fixed(ns)
	cfg.Audiences = []string{"vault", "registry"}
	token := issue(t, provider(t, cfg), providers.Request{}).Token
	if server.review(t, token).Authenticated {
		t.Error("the API server takes a token for other audiences")
	}
	if review := server.review(t, token, "vault"); !slices.Contains(review.Audiences, "vault") {
		t.Errorf("the token is not for vault: %+v", review)
	}
}

func TestShortenedByTheServer(t *testing.T) {
	ns := server.namespace(t)
	server.account(t, ns, "deployer", nil)
	cfg := fixed(ns)
	cfg.Duration = 24 * time.Hour
	got := issue(t, provider(t, cfg), providers.Request{})
	if life := time.Until(got.NotAfter); life > testenv.MaxTokenLife || life < testenv.MaxTokenLife-time.Minute {
		t.Errorf("lives for %v, want the %v that the server grants", life, testenv.MaxTokenLife)
	}
}

func TestRevocable(t *testing.T) {
	ns := server.namespace(t)
	server.account(t, ns, "deployer", nil)
	cfg := fixed(ns)
	cfg.Revocable = true
	p := provider(t, cfg)
	if review := server.review(t, issue(t, p, providers.Request{}).Token); !review.Authenticated {
		t.Fatalf("a revocable token is refused: %v", review.Error)
	}
	// The API server keeps what it found out about a token for some seconds, and so each of these is
	// shown to it once.
	var old []string
	for range 50 {
		old = append(old, issue(t, p, providers.Request{}).Token)
	}

	secrets, err := server.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "keyferry.dev/purpose=token-revocation"})
	if err != nil || len(secrets.Items) != 1 {
		t.Fatalf("%d Secrets, want one for both tokens: %v", len(secrets.Items), err)
	}
	secret := secrets.Items[0]
	if secret.Annotations["keyferry.dev/owner"] != cfg.Owner || secret.Immutable == nil || !*secret.Immutable || len(secret.Data) != 0 {
		t.Errorf("the Secret is not marked, immutable and empty: %+v", secret)
	}
	if err := server.CoreV1().Secrets(ns).Delete(t.Context(), secret.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := wait.PollUntilContextCancel(t.Context(), 200*time.Millisecond, true, func(context.Context) (bool, error) {
		if len(old) == 0 {
			return false, errors.New("tokens outlive their Secret")
		}
		refused := !server.review(t, old[0]).Authenticated // it learns of the deletion by a watch
		old = old[1:]
		return refused, nil
	}); err != nil {
		t.Fatal(err)
	}
	if review := server.review(t, issue(t, p, providers.Request{}).Token); !review.Authenticated {
		t.Errorf("a token that was issued after the Secret was deleted is refused: %v", review.Error)
	}
}

func TestRevocableAdoptsNothing(t *testing.T) {
	ns := server.namespace(t)
	server.account(t, ns, "deployer", nil)
	cfg := fixed(ns)
	cfg.Revocable = true
	issue(t, provider(t, cfg), providers.Request{})
	secrets, err := server.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(secrets.Items) != 1 {
		t.Fatalf("%d Secrets: %v", len(secrets.Items), err)
	}
	secret := secrets.Items[0]
	secret.Annotations = nil
	if _, err := server.CoreV1().Secrets(ns).Update(t.Context(), &secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = provider(t, cfg).Issue(t.Context(), providers.Request{})
	if !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), secret.Name) {
		t.Errorf("got %v", err)
	}
}

// TestRights holds the documented rights to what is really needed: they suffice, and without them
// the message names them.
func TestRights(t *testing.T) {
	tokenOf := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{"deployer"}, Verbs: []string{"create"}}
	accounts := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"get", "create"}}
	secrets := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "create"}}
	for name, test := range map[string]struct {
		change func(*tokenrequest.Config)
		needs  []rbacv1.PolicyRule
		names  string
	}{
		"Fixed":     {func(*tokenrequest.Config) {}, []rbacv1.PolicyRule{tokenOf}, "create on serviceaccounts/token named deployer"},
		"create":    {func(cfg *tokenrequest.Config) { cfg.Create = true }, []rbacv1.PolicyRule{tokenOf, accounts}, "get and create on serviceaccounts"},
		"revocable": {func(cfg *tokenrequest.Config) { cfg.Revocable = true }, []rbacv1.PolicyRule{tokenOf, secrets}, "get and create on secrets"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := server.namespace(t)
			cfg := fixed(ns)
			test.change(&cfg)
			if !cfg.Create {
				server.account(t, ns, "deployer", nil)
			}
			server.account(t, ns, "keyferry", nil)
			own := fixed(ns)
			own.ServiceAccount.Name = "keyferry"
			limited := server.admin()
			limited.ClientCertificate, limited.ClientKey = nil, nil
			limited.Token = issue(t, provider(t, own), providers.Request{}).Token
			cfg.Access = limited

			_, err := provider(t, cfg).Issue(t.Context(), providers.Request{})
			if !errors.Is(err, providers.ErrRefused) || !strings.Contains(err.Error(), test.names) {
				t.Errorf("without rights: %v", err)
			}
			server.grant(t, ns, "keyferry", test.needs)
			issue(t, provider(t, cfg), providers.Request{})
		})
	}
}

// grant gives an account a Role, and waits until the API server knows it.
func (a api) grant(t *testing.T, namespace, account string, rules []rbacv1.PolicyRule) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: account, Namespace: namespace}
	if _, err := a.RbacV1().Roles(namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta,
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: account}},
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: account},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a.waitUntilGranted(t, namespace, account, rules)
}

func (a api) waitUntilGranted(t *testing.T, namespace, account string, rules []rbacv1.PolicyRule) {
	t.Helper()
	as := rest.CopyConfig(a.config)
	as.Impersonate.UserName = "system:serviceaccount:" + namespace + ":" + account
	reviews := kubernetes.NewForConfigOrDie(as).AuthorizationV1().SelfSubjectRulesReviews()
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		review, err := reviews.Create(ctx, &authorizationv1.SelfSubjectRulesReview{
			Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace},
		}, metav1.CreateOptions{})
		if err != nil {
			return false, err
		}
		known := 0
		for _, rule := range review.Status.ResourceRules {
			if slices.ContainsFunc(rules, func(want rbacv1.PolicyRule) bool { return slices.Equal(want.Resources, rule.Resources) }) {
				known++
			}
		}
		return known >= len(rules), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
