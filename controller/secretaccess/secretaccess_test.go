package secretaccess

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/keyferry/keyferry/internal/testenv"
)

const (
	own     = "keyferry-system"
	account = "system:serviceaccount:" + own + ":keyferry-"
	chart   = "../../charts/keyferry"
)

var server *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { server = cfg }))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func(context.Context) bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) { return ok(ctx), nil })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// install applies what the chart renders for the controller and its access to Secrets by the label
// access=yes.
func install(t *testing.T, admin client.Client) {
	t.Helper()
	testenv.DependOn(t, chart)
	out, err := testenv.Helm(t, server, ".", "template", "keyferry", chart, "--namespace", own, "--set", "secretAccess.namespaceLabels.access=yes",
		"--show-only", "templates/controller-rbac.yaml", "--show-only", "templates/secret-access-by-label.yaml").Output()
	must(t, err)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: own, Labels: map[string]string{"access": "yes"}}}
	must(t, client.IgnoreAlreadyExists(admin.Create(t.Context(), namespace)))
	for decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(string(out)), 4096); ; {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			must(t, client.IgnoreAlreadyExists(admin.Create(t.Context(), object)))
		}
	}
}

// as returns a client that acts as the controller; with groups, it has their permissions, too.
func as(t *testing.T, groups ...string) (*rest.Config, client.Client) {
	t.Helper()
	cfg := rest.CopyConfig(server)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: account + "controller", Groups: groups}
	c, err := client.New(cfg, client.Options{Scheme: scheme.Scheme})
	must(t, err)
	return cfg, c
}

// run runs the controller until t ends. It returns the controller's client, which has a cache.
func run(t *testing.T) client.Client {
	t.Helper()
	cfg, _ := as(t)
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:  scheme.Scheme,
		Logger:  logr.Discard(),
		Metrics: metricsserver.Options{BindAddress: "0"},
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			&rbacv1.RoleBinding{}: {Field: fields.OneTermEqualSelector("metadata.name", RoleBinding)},
		}},
	})
	must(t, err)
	bindings, err := New(Config{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Labels: map[string]string{"access": "yes"}, Namespace: own,
		ServiceAccounts: []string{"keyferry-broker", "keyferry-controller"},
	})
	must(t, err)
	must(t, bindings.SetupWithManager(mgr))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-ended)
	})
	return mgr.GetClient()
}

// TestLabelledNamespaces runs with the permissions of the chart, under its policy. Keyferry may
// read the Secrets of namespaces with the label, and of no other, whatever users do to the
// RoleBinding, and whatever a compromised controller does.
func TestLabelledNamespaces(t *testing.T) {
	admin := testenv.NewClient(t, server)
	install(t, admin)
	controller := run(t)
	may := func(ctx context.Context, component, namespace string) bool {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               account + component,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Resource: "secrets", Name: "access"},
		}}
		must(t, admin.Create(ctx, review))
		return review.Status.Allowed
	}
	allowed := func(namespace string) func(context.Context) bool {
		return func(ctx context.Context) bool {
			return may(ctx, "broker", namespace) && may(ctx, "controller", namespace)
		}
	}
	create := func(labels map[string]string) *corev1.Namespace {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "fleet-", Labels: labels}}
		must(t, admin.Create(t.Context(), namespace))
		return namespace
	}
	other := create(map[string]string{"access": "no"})
	fleet := create(map[string]string{"access": "yes"})
	eventually(t, "a namespace with the label", allowed(fleet.Name))
	if may(t.Context(), "webhook", fleet.Name) {
		t.Error("the webhook may read Secrets")
	}

	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: fleet.Name, Name: RoleBinding}}
	key := client.ObjectKeyFromObject(binding)
	must(t, admin.Delete(t.Context(), binding))
	eventually(t, "the RoleBinding was deleted", allowed(fleet.Name))
	must(t, admin.Get(t.Context(), key, binding))
	// Without its owner, which the chart removes, Kubernetes' garbage collector deletes it.
	role := &rbacv1.ClusterRole{}
	must(t, admin.Get(t.Context(), client.ObjectKey{Name: ClusterRole}, role))
	if owners := binding.OwnerReferences; len(owners) != 1 || owners[0].UID != role.UID || owners[0].Kind != "ClusterRole" || owners[0].APIVersion != "rbac.authorization.k8s.io/v1" {
		t.Errorf("the RoleBinding is owned by %+v", owners)
	}
	binding.OwnerReferences = nil
	must(t, admin.Update(t.Context(), binding))
	eventually(t, "the owner was removed", func(ctx context.Context) bool {
		return admin.Get(ctx, key, binding) == nil && len(binding.OwnerReferences) == 1
	})
	stranger := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: fleet.Name, Name: "default"}
	binding.Subjects = append(binding.Subjects, stranger)
	must(t, admin.Update(t.Context(), binding))
	eventually(t, "the RoleBinding was changed", func(ctx context.Context) bool {
		err := admin.Get(ctx, key, binding)
		return err == nil && !slices.Contains(binding.Subjects, stranger) && allowed(fleet.Name)(ctx)
	})
	eventually(t, "the controller's cache has the RoleBinding", func(ctx context.Context) bool {
		cached := &rbacv1.RoleBinding{}
		return controller.Get(ctx, key, cached) == nil && cached.UID == binding.UID
	})
	fleet.Labels = nil
	must(t, admin.Update(t.Context(), fleet))
	// The controller reconciles one namespace after the other: fleet before the next one.
	eventually(t, "the next namespace", allowed(create(map[string]string{"access": "yes"}).Name))
	for what, namespace := range map[string]string{"the label was removed": fleet.Name, "another label": other.Name, "Keyferry's own": own} {
		if may(t.Context(), "broker", namespace) || may(t.Context(), "controller", namespace) {
			t.Errorf("%s: Keyferry may read Secrets", what)
		}
	}
}

// TestControllerBindsNothingElse: with all permissions, so that only the policy denies.
func TestControllerBindsNothingElse(t *testing.T) {
	admin := testenv.NewClient(t, server)
	install(t, admin)
	_, controller := as(t, "system:masters")
	labelled := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "fleet-", Labels: map[string]string{"access": "yes"}}}
	plain := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "app-", Labels: map[string]string{"access": "no"}}}
	must(t, admin.Create(t.Context(), labelled))
	must(t, admin.Create(t.Context(), plain))
	template, err := New(Config{Client: admin, Live: admin, Labels: map[string]string{"access": "yes"}, Namespace: own, ServiceAccounts: []string{"keyferry-broker", "keyferry-controller"}})
	must(t, err)
	try := func(ctx context.Context, namespace string, change func(*rbacv1.RoleBinding)) error {
		binding, err := template.binding(ctx, namespace)
		if err != nil {
			return err
		}
		change(binding)
		return controller.Create(ctx, binding, client.DryRunAll)
	}
	deniedBy := func(err error, message string) bool { return err != nil && strings.Contains(err.Error(), message) }
	const only, label = "may create only the RoleBinding", "does not have the labels"
	rename := func(b *rbacv1.RoleBinding) { b.Name = "another" }
	eventually(t, "the policy acts", func(ctx context.Context) bool { return deniedBy(try(ctx, labelled.Name, rename), only) })
	for name, test := range map[string]struct {
		namespace, message string
		change             func(*rbacv1.RoleBinding)
	}{
		"another ClusterRole":    {labelled.Name, only, func(b *rbacv1.RoleBinding) { b.RoleRef.Name = "cluster-admin" }},
		"a Role":                 {labelled.Name, only, func(b *rbacv1.RoleBinding) { b.RoleRef.Kind = "Role" }},
		"another ServiceAccount": {labelled.Name, only, func(b *rbacv1.RoleBinding) { b.Subjects[0].Name = "default" }},
		"of another namespace":   {labelled.Name, only, func(b *rbacv1.RoleBinding) { b.Subjects[0].Namespace = "default" }},
		"a user": {labelled.Name, only, func(b *rbacv1.RoleBinding) {
			b.Subjects = append(b.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "eve"})
		}},
		"a namespace without the label": {plain.Name, label, func(*rbacv1.RoleBinding) {}},
		"a namespace with other labels": {metav1.NamespaceDefault, label, func(*rbacv1.RoleBinding) {}},
		"Keyferry's own namespace":      {own, label, func(*rbacv1.RoleBinding) {}},
	} {
		if err := try(t.Context(), test.namespace, test.change); !deniedBy(err, test.message) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := try(t.Context(), labelled.Name, func(*rbacv1.RoleBinding) {}); err != nil {
		t.Errorf("what the controller is for: %v", err)
	}
	if err := admin.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: plain.Name, Name: "another"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
	}, client.DryRunAll); err != nil {
		t.Errorf("another user: %v", err)
	}
}
