package apitest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/cli"
	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/internal/moduleroot"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/internal/use"
)

const (
	grantedRole    = "keyferry:use:tenant-1"
	grantedBinding = "keyferry:use:tenant-1:app:web"
)

// administrator returns a client for the API server.
func administrator(t *testing.T) client.Client {
	t.Helper()
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return testenv.NewClient(t, cfg)
}

// create creates objects, and deletes them when the test ends.
func create(t *testing.T, c client.Client, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		if err := c.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := client.IgnoreNotFound(c.Delete(context.Background(), object)); err != nil {
				t.Error(err)
			}
		})
	}
}

// mayUse reports whether the ServiceAccount app/NAME may use fleet/TARGET.
func mayUse(t *testing.T, c client.Client, account, target string) bool {
	t.Helper()
	may, err := use.Allowed(t.Context(), c, types.NamespacedName{Namespace: "app", Name: account}, "", fleet(use.TargetCluster, target))
	if err != nil {
		t.Fatal(err)
	}
	return may
}

func fleet(kind func(types.NamespacedName) use.Object, name string) use.Object {
	return kind(types.NamespacedName{Namespace: "fleet", Name: name})
}

// keyferryOK runs the command, which has to succeed.
func keyferryOK(t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	code, stdout, stderr := run(t, "keyferry", args...)
	if code != cli.ExitOK {
		t.Fatalf("%s: exit code %d, %s", args, code, stderr)
	}
	return stdout, stderr
}

func TestGrantAndRevoke(t *testing.T) {
	c := administrator(t)
	create(t, c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "web"}})

	stdout, stderr := keyferryOK(t, "grant", "fleet/tenant-1", "web", "app/worker") // in the namespace app
	if want := "Role fleet/" + grantedRole + " created\nRoleBinding fleet/" + grantedBinding + " created\nRoleBinding fleet/keyferry:use:tenant-1:app:worker created\n"; stdout != want {
		t.Errorf("got %q, want %q", stdout, want)
	}
	if stderr != "warning: ServiceAccount app/worker does not exist yet\n" {
		t.Errorf("got %q", stderr)
	}
	for account, want := range map[string]bool{"web": true, "worker": true, "other": false} {
		if got := mayUse(t, c, account, "tenant-1"); got != want {
			t.Errorf("%s may use it: %v", account, got)
		}
	}
	if mayUse(t, c, "web", "tenant-2") {
		t.Error("web may use another TargetCluster of the namespace, too")
	}
	if stdout, _ := keyferryOK(t, "grant", "fleet/tenant-1", "app/web"); strings.Count(stdout, " unchanged\n") != 2 {
		t.Errorf("run again: %q", stdout)
	}

	if stdout, _ := keyferryOK(t, "revoke", "fleet/tenant-1", "app/web"); stdout != "RoleBinding fleet/"+grantedBinding+" deleted\n" {
		t.Errorf("got %q: the Role is still needed", stdout)
	}
	if mayUse(t, c, "web", "tenant-1") || !mayUse(t, c, "worker", "tenant-1") {
		t.Error("the wrong right is gone")
	}
	stdout, _ = keyferryOK(t, "revoke", "fleet/tenant-1", "app/web", "app/worker")
	if want := "RoleBinding fleet/" + grantedBinding + " not found\nRoleBinding fleet/keyferry:use:tenant-1:app:worker deleted\nRole fleet/" + grantedRole + " deleted\n"; stdout != want {
		t.Errorf("got %q, want %q", stdout, want)
	}
}

// TestDenialIsFixed runs the commands that a denial names: the grant makes the check say yes, for
// this one object and ServiceAccount, and also if another ServiceAccount has a grant already.
func TestDenialIsFixed(t *testing.T) {
	c := administrator(t)
	for _, object := range []use.Object{fleet(use.TargetCluster, "tenant-1"), fleet(use.ClusterProfile, "paris")} {
		t.Run(object.Kind, func(t *testing.T) {
			for _, name := range []string{"worker", "web"} {
				account := types.NamespacedName{Namespace: "app", Name: name}
				grant, check := strings.Fields(use.GrantCommand(account, object)), strings.Fields(use.CheckCommand(account, object))
				if code, stdout, _ := run(t, check[0], check[1:]...); code == cli.ExitOK || stdout != "no\n" {
					t.Errorf("%s before the grant: exit code %d, %q", name, code, stdout)
				}
				keyferryOK(t, grant[1:]...)
				if code, stdout, stderr := run(t, check[0], check[1:]...); code != cli.ExitOK || stdout != "yes\n" {
					t.Errorf("%s after the grant: exit code %d, %q, %s", name, code, stdout, stderr)
				}
				for _, other := range []use.Object{fleet(use.TargetCluster, "paris"), fleet(use.ClusterProfile, "tenant-1")} {
					if may, err := use.Allowed(t.Context(), c, account, "", other); err != nil || may {
						t.Errorf("%s may use %s, too; %v", name, other, err)
					}
				}
			}
			revoke := strings.Fields(use.GrantCommand(types.NamespacedName{Namespace: "app", Name: "worker"}, object))
			revoke[1] = "revoke"
			keyferryOK(t, append(revoke[1:], "app/web")...)
		})
	}
	code, _, stderr := run(t, "keyferry", "grant", "--cluster-profile", "fleet/rome", "app/web")
	if code != cli.ExitFailed || !strings.Contains(stderr, "there is no ClusterProfile fleet/rome: create it first") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

// TestGrantForGit: what is printed is what would be made, and no cluster is asked.
func TestGrantForGit(t *testing.T) {
	c := administrator(t)
	printed, _ := keyferryOK(t, "grant", "fleet/tenant-1", "app/web", "--dry-run=client", "-o", "yaml", "--server", "https://203.0.113.1")
	keyferryOK(t, "grant", "fleet/tenant-1", "app/web")
	defer keyferryOK(t, "revoke", "fleet/tenant-1", "app/web")
	documents := strings.Split(strings.TrimPrefix(printed, "---\n"), "---\n")
	role, binding := &rbacv1.Role{}, &rbacv1.RoleBinding{}
	for i, object := range []client.Object{role, binding} {
		if err := yaml.UnmarshalStrict([]byte(documents[i]), object); err != nil {
			t.Fatal(err)
		}
		if outcome, err := managed.Apply(t.Context(), c, object); err != nil || outcome != managed.Unchanged {
			t.Errorf("%s: %s, %v", managed.Name(object), outcome, err)
		}
	}
	if len(documents) != 2 || role.Labels[managed.Label] != managed.Value {
		t.Errorf("printed %s", printed)
	}
	stdout, _ := keyferryOK(t, "revoke", "fleet/tenant-1", "app/web", "--dry-run=client")
	if stdout != "RoleBinding fleet/"+grantedBinding+" deleted (dry run)\n" || !mayUse(t, c, "web", "tenant-1") {
		t.Errorf("got %q", stdout)
	}
}

// TestGrantChangesOnlyItsOwn: objects without the label stay as they are.
func TestGrantChangesOnlyItsOwn(t *testing.T) {
	c := administrator(t)
	foreign := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: grantedRole}}
	create(t, c, foreign)
	code, _, stderr := run(t, "keyferry", "grant", "fleet/tenant-1", "app/web")
	if code != cli.ExitFailed || !strings.Contains(stderr, "Role fleet/"+grantedRole+" exists and was not made by keyferry") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	live := &rbacv1.Role{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(foreign), live); err != nil || live.ResourceVersion != foreign.ResourceVersion {
		t.Errorf("changed: %+v, %v", live, err)
	}
	binding := use.Binding(types.NamespacedName{Namespace: "app", Name: "web"}, fleet(use.TargetCluster, "tenant-1"))
	create(t, c, binding)
	if code, _, stderr := run(t, "keyferry", "revoke", "fleet/tenant-1", "app/web"); code != cli.ExitFailed || !strings.Contains(stderr, "was not made by keyferry") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(binding), &rbacv1.RoleBinding{}); err != nil {
		t.Errorf("deleted: %v", err)
	}
}

// TestRevokeFindsOtherGrants: revoke does not report success while the ServiceAccount may still use
// the TargetCluster.
func TestRevokeFindsOtherGrants(t *testing.T) {
	c := administrator(t)
	create(t, c, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "all"}, Rules: use.Role(use.TargetCluster(types.NamespacedName{Name: "tenant-1"})).Rules},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "all"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "all"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "app", Name: "web"}},
		})
	keyferryOK(t, "grant", "fleet/tenant-1", "app/web")
	code, stdout, stderr := run(t, "keyferry", "revoke", "fleet/tenant-1", "app/web")
	if code != cli.ExitFailed || !strings.Contains(stdout, "deleted") || !strings.Contains(stderr, "app/web may still use TargetCluster fleet/tenant-1") {
		t.Errorf("exit code %d, %s%s", code, stdout, stderr)
	}
}

// TestTenantGrants: who has the ClusterRole keyferry-targetcluster-owner in a namespace can grant
// use, and who has only the right to write RBAC objects gets to know what is missing.
func TestTenantGrants(t *testing.T) {
	c := administrator(t)
	owner := clusterRole(t, "keyferry-targetcluster-owner")
	create(t, c, owner,
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "rbac"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}, Verbs: []string{"get", "list", "create", "patch", "delete"}},
			{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"localsubjectaccessreviews"}, Verbs: []string{"create"}},
		}},
		boundTo("tenant", "rbac", "Role", "rbac"))
	grant := func() (int, string) {
		code, _, stderr := run(t, "keyferry", "grant", "fleet/tenant-1", "app/web", "--as", "tenant")
		return code, stderr
	}
	if code, stderr := grant(); code != cli.ExitFailed || !strings.Contains(stderr, "bind the ClusterRole keyferry-targetcluster-owner to you in namespace fleet") {
		t.Errorf("without it: exit code %d, %s", code, stderr)
	}
	create(t, c, boundTo("tenant", "owner", "ClusterRole", owner.Name))
	if code, stderr := grant(); code != cli.ExitOK {
		t.Errorf("with it: exit code %d, %s", code, stderr)
	}
	keyferryOK(t, "revoke", "fleet/tenant-1", "app/web", "--as", "tenant")
}

// boundTo returns a RoleBinding for a user in the namespace fleet.
func boundTo(user, name, kind, role string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
	}
}

// clusterRole returns one that the installation brings.
func clusterRole(t *testing.T, name string) *rbacv1.ClusterRole {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(moduleroot.Dir(), "config", "default", "user-roles.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(content), "\n---\n") {
		role := &rbacv1.ClusterRole{}
		if err := yaml.UnmarshalStrict([]byte(document), role); err != nil {
			t.Fatal(err)
		}
		if role.Name == name {
			return role
		}
	}
	t.Fatalf("there is no ClusterRole %s", name)
	return nil
}
