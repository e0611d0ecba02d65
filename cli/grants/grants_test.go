package grants

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/internal/use"
)

var server *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		cfg.QPS, cfg.Burst = 1000, 1000
		server = cfg
	}))
}

// TestAsTheAPIServer: for random RBAC objects, the answers are those of the API server.
func TestAsTheAPIServer(t *testing.T) {
	c := testenv.NewClient(t, server)
	random := rand.New(rand.NewPCG(1, 2)) // #nosec G404 -- for tests only
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	some := func(from ...string) []string { return from[:random.IntN(len(from)+1)] }
	create := func(o client.Object) {
		t.Helper()
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"n1", "n2"} {
		create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	rules := func() []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{
			Verbs: []string{pick("use", "use", "get", "*")}, APIGroups: []string{pick("keyferry.dev", "keyferry.dev", "*", "multicluster.x-k8s.io")},
			Resources: []string{pick("targetclusters", "targetclusters", "clusterprofiles", "targetclusters/status", "*")}, ResourceNames: some("a", "b"),
		}}
	}
	subjects := func() []rbacv1.Subject {
		return []rbacv1.Subject{
			{Kind: rbacv1.ServiceAccountKind, Namespace: pick("n1", "n2"), Name: pick("s", "t")},
			{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: pick("jane", "system:serviceaccount:n1:t", "system:serviceaccount:n2:s", "system:serviceaccount:n1")},
			{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: pick("ops", "ops", "system:masters", "system:unauthenticated", "system:serviceaccounts:", "system:serviceaccounts:n2")},
		}
	}
	var differ, allowed int
	for round := range 12 {
		for i := range 3 {
			name := fmt.Sprintf("r%d-%d", round, i)
			namespace := pick("n1", "n2")
			create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: rules()})
			create(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules()})
			create(&rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Subjects: subjects(),
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: pick("Role", "ClusterRole"), Name: name},
			})
		}
		if round%4 == 3 {
			create(&rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("r%d", round)}, Subjects: subjects()[:1],
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: fmt.Sprintf("r%d-0", round)},
			})
		}
	}
	r, err := Read(t.Context(), c)
	if err != nil || len(r.Incomplete) > 0 {
		t.Fatal(err, r.Incomplete)
	}
	for _, account := range []types.NamespacedName{{Namespace: "n1", Name: "s"}, {Namespace: "n1", Name: "t"}, {Namespace: "n2", Name: "s"}, {Namespace: "n2", Name: "u"}} {
		for _, name := range []types.NamespacedName{{Namespace: "n1", Name: "a"}, {Namespace: "n1", Name: "b"}, {Namespace: "n2", Name: "a"}, {Namespace: "n2", Name: "c"}} {
			for _, o := range []use.Object{use.TargetCluster(name), use.ClusterProfile(name)} {
				got := r.May(account, o) == Yes
				want := eventually(t, c, account, o, got)
				if got != want {
					differ++
					t.Errorf("%s, %s: got %v, the API server says %v", account, o, got, want)
				}
				if want {
					allowed++
				}
			}
		}
	}
	if allowed == 0 || allowed == 32 || differ > 0 {
		t.Errorf("%d of 32 are allowed, %d differ", allowed, differ)
	}
}

// eventually asks the API server, whose authorizer reads RBAC objects with a delay, until it agrees
// or a time has passed.
func eventually(t *testing.T, c client.Client, account types.NamespacedName, o use.Object, want bool) bool {
	t.Helper()
	ticks := time.NewTicker(50 * time.Millisecond)
	defer ticks.Stop()
	for range 100 {
		allowed, err := use.Allowed(t.Context(), c, account, "", o)
		if err != nil {
			t.Fatal(err)
		}
		if allowed == want {
			return allowed
		}
		<-ticks.C
	}
	return !want
}

// TestIncomplete: without the right to read all RBAC objects, what is not granted is unknown.
func TestIncomplete(t *testing.T) {
	cfg := rest.CopyConfig(server)
	cfg.Impersonate.UserName = "nobody"
	r, err := Read(t.Context(), testenv.NewClient(t, cfg))
	if err != nil || len(r.Incomplete) != 4 {
		t.Fatal(err, r)
	}
	if got := r.May(types.NamespacedName{Namespace: "n1", Name: "s"}, use.TargetCluster(types.NamespacedName{Namespace: "n1", Name: "a"})); got != Unknown {
		t.Errorf("got %s", got)
	}
	if !apierrors.IsForbidden(testenv.NewClient(t, cfg).List(t.Context(), &rbacv1.RoleList{})) {
		t.Error("nobody may read Roles")
	}
}
