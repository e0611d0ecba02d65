package main

import (
	"crypto/x509"
	"flag"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/generated"
	"github.com/keyferry/keyferry/internal/metrics/metricstest"
	"github.com/keyferry/keyferry/internal/testenv"
)

var (
	apiServer *rest.Config
	update    = flag.Bool("update", false, "write what is generated")
)

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { apiServer = cfg }))
}

// TestWorksAndStops runs the whole command: it makes a TargetCluster and a CredentialRequest ready,
// measures and tells both, and ends when its context does.
func TestWorksAndStops(t *testing.T) {
	fleet, unlisted := testenv.NewFleet(t, apiServer), testenv.NewFleet(t, apiServer)
	grantSecrets(t, fleet)
	err := fleet.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "keyferry-system"}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", testenv.WriteKubeconfig(t, apiServer, ""))
	health, metrics := testenv.FreeAddress(t), testenv.FreeAddress(t)

	fleet.CreateBroken(t, "tenant-2")
	for name, target := range map[string]string{"deploy": "tenant-1", "broken": "tenant-2"} {
		must(t, fleet.Create(t.Context(), &v1alpha1.CredentialRequest{
			ObjectMeta: fleet.Named(name),
			Spec: v1alpha1.CredentialRequestSpec{
				TargetCluster:      v1alpha1.ObjectReference{Namespace: fleet.Namespace, Name: target},
				ServiceAccountName: "web",
				Type:               v1alpha1.CredentialKubeconfig,
				Secret:             v1alpha1.CredentialSecret{Name: name},
			},
		}))
	}
	program := testenv.Execute(t, command(),
		"--namespace=keyferry-system", "--health-address="+health, "--metrics-address="+metrics, "--allow-local-addresses",
		"--credential-request-namespaces="+fleet.Namespace+","+unlisted.Namespace, "--webhook-configuration=")

	// Until then the program sets the logger of all clients of this process.
	program.Eventually(t, func() (bool, string) {
		code, answer := testenv.Ask(t, http.DefaultClient, http.MethodGet, "http://"+health+"/healthz", "")
		return code == http.StatusOK, answer
	})
	scraper := testenv.NewScraper(t, apiServer, trusted(t, program, fleet), "keyferry-controller.keyferry-system.svc")
	served := ""
	program.Eventually(t, func() (bool, string) {
		_, served = testenv.Ask(t, scraper, http.MethodGet, "https://"+metrics+"/metrics", "")
		for _, want := range []string{
			`keyferry_targetcluster_ready{target="` + fleet.Namespace + `/tenant-1"} 1`,
			`keyferry_targetcluster_ready{target="` + unlisted.Namespace + `/tenant-1"} 0`,
			`keyferry_credentialrequest_ready{request="` + fleet.Namespace + `/deploy"} 1`,
			`keyferry_credentialrequest_ready{request="` + fleet.Namespace + `/broken"} 0`,
			`keyferry_target_last_failure_timestamp_seconds{kind="TargetCluster",target="` + fleet.Namespace + `/tenant-2"}`,
			`keyferry_certificate_expiration_timestamp_seconds{secret="keyferry-broker-tls"}`,
		} {
			if !strings.Contains(served, want) {
				return false, "no " + want
			}
		}
		return true, ""
	})
	metricstest.Check(t, "controller", served, *update)

	// What breaks is told on the objects that people look at, once.
	program.Eventually(t, func() (bool, string) {
		told := events(t, fleet)
		for _, want := range []string{"CredentialRequest/deploy/Ready", "CredentialRequest/broken/NotFound"} {
			if _, ok := told[want]; !ok {
				return false, "no " + want + " in " + strings.Join(slices.Sorted(maps.Keys(told)), ", ")
			}
		}
		return true, ""
	})
	program.Stop(t)
}

// grantSecrets allows the broker to read the Secrets of a fleet.
func grantSecrets(t *testing.T, fleet *testenv.Fleet) {
	t.Helper()
	for _, object := range []client.Object{
		&rbacv1.Role{ObjectMeta: fleet.Named("keyferry-secret-access"), Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}},
		}},
		&rbacv1.RoleBinding{
			ObjectMeta: fleet.Named("keyferry-secret-access"),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "keyferry-secret-access"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "keyferry-system", Name: "keyferry-broker"}},
		},
	} {
		must(t, fleet.Create(t.Context(), object))
	}
}

// trusted returns the CA that the controller publishes.
func trusted(t *testing.T, program *testenv.Program, fleet *testenv.Fleet) *x509.CertPool {
	t.Helper()
	roots := x509.NewCertPool()
	program.Eventually(t, func() (bool, string) {
		published := &corev1.ConfigMap{}
		err := fleet.Get(t.Context(), client.ObjectKey{Namespace: fleet.Namespace, Name: injector.TrustConfigMap}, published)
		return err == nil && roots.AppendCertsFromPEM([]byte(published.Data["ca.crt"])), "no CA is published"
	})
	return roots
}

// events returns those of the fleet, by kind, name and reason.
func events(t *testing.T, fleet *testenv.Fleet) map[string]eventsv1.Event {
	t.Helper()
	var list eventsv1.EventList
	must(t, fleet.List(t.Context(), &list, client.InNamespace(fleet.Namespace)))
	told := map[string]eventsv1.Event{}
	for i := range list.Items {
		of := list.Items[i].Regarding
		told[of.Kind+"/"+of.Name+"/"+list.Items[i].Reason] = list.Items[i]
	}
	return told
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFlagsAreDocumented(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "")
	generated.CheckCommand(t, command, *update)
}
