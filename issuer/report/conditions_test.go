package report

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/issuer/verify"
	"github.com/keyferry/keyferry/providers"
)

var (
	apiServer *rest.Config
	start     = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { apiServer = cfg }))
}

// setUp returns a client and a TargetCluster in a namespace of its own.
func setUp(t *testing.T) (client.Client, types.NamespacedName) {
	t.Helper()
	c := testenv.NewClient(t, apiServer)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "issuing-"}}
	must(t, c.Create(t.Context(), namespace))
	cluster := &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: "tenant-1"},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "access"}},
			Issue:  v1alpha1.Issue{Type: v1alpha1.IssueAccess},
		},
	}
	must(t, c.Create(t.Context(), cluster))
	return c, client.ObjectKeyFromObject(cluster)
}

func TestCondition(t *testing.T) {
	c, target := setUp(t)
	must(t, testenv.InstallPolicy(t.Context(), apiServer, "broker-policy.yaml"))
	now := start
	const fieldManager = "keyferry-test"
	reporter, err := New(Config{Client: testenv.NewClient(t, testenv.As(apiServer, "broker")), FieldManager: fieldManager, Interval: time.Hour, Metrics: prometheus.NewRegistry(), Now: func() time.Time { return now }})
	must(t, err)
	conditions := reporter.conditions
	observe := func(err error) *metav1.Condition {
		t.Helper()
		conditions.observe(issuer.Event{TargetCluster: target, Err: err})
		conditions.flush(t.Context())
		var cluster v1alpha1.TargetCluster
		must(t, c.Get(t.Context(), target, &cluster))
		return meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionIssuing)
	}

	first := observe(nil)
	if first == nil || first.Status != metav1.ConditionTrue || first.Reason != "Issued" || first.ObservedGeneration != 1 || !first.LastTransitionTime.Time.Equal(start) {
		t.Fatalf("after a success: %+v", first)
	}
	version := resourceVersion(t, c, target)
	now = now.Add(time.Minute)
	observe(nil)
	if got := resourceVersion(t, c, target); got != version {
		t.Errorf("a second success was written: resourceVersion %s, want %s", got, version)
	}
	for _, test := range []struct {
		err    error
		reason string
	}{
		{&resolve.InvalidError{Reason: "InvalidKubeconfig", Message: "Secret fleet/tenant-1: no current context"}, "InvalidKubeconfig"},
		{providers.ErrNotFound, "NotFound"},
		{providers.ErrRefused, "Refused"},
		{fmt.Errorf("%w: %w", providers.ErrRefused, verify.ErrRejected), "CredentialRejected"},
		{providers.Unavailable(0, http.ErrServerClosed), "Unavailable"},
		{http.ErrServerClosed, "Failed"},
	} {
		got := observe(test.err)
		if got.Status != metav1.ConditionFalse || got.Reason != test.reason || got.Message != test.err.Error() || !got.LastTransitionTime.Time.Equal(now) {
			t.Errorf("after %v: %+v", test.err, got)
		}
	}
	if got := observe(nil); got.Status != metav1.ConditionTrue {
		t.Errorf("after a success again: %+v", got)
	}
	conditions.observe(issuer.Event{TargetCluster: target, Err: providers.ErrNotFound, OneAccount: true})
	if len(conditions.pending) > 0 {
		t.Errorf("a ServiceAccount that is missing is reported for all: %+v", conditions.pending)
	}

	var cluster v1alpha1.TargetCluster
	must(t, c.Get(t.Context(), target, &cluster))
	ours := false
	for _, entry := range cluster.ManagedFields {
		ours = ours || entry.Manager == fieldManager
		if entry.Manager == fieldManager && (entry.Operation != metav1.ManagedFieldsOperationApply || entry.Subresource != "status") {
			t.Errorf("written by %s on %q", entry.Operation, entry.Subresource)
		}
	}

	if !ours {
		t.Errorf("no field is managed by %s: %+v", fieldManager, cluster.ManagedFields)
	}

	must(t, c.Delete(t.Context(), &cluster))
	conditions.observe(issuer.Event{TargetCluster: target})
	conditions.flush(t.Context())
	if err := c.Get(t.Context(), target, &cluster); !apierrors.IsNotFound(err) {
		t.Errorf("the condition of a deleted TargetCluster created it again: %v", err)
	}
	if len(conditions.pending) != 0 {
		t.Errorf("still pending: %v", conditions.pending)
	}
}

func TestPendingIsBounded(t *testing.T) {
	conditions := &conditions{pending: map[types.NamespacedName]metav1.Condition{}}
	for range 2 * maxTargets {
		conditions.observe(issuer.Event{TargetCluster: types.NamespacedName{Name: rand.Text()}})
	}
	if len(conditions.pending) != maxTargets {
		t.Errorf("%d are kept, want %d", len(conditions.pending), maxTargets)
	}
}

func resourceVersion(t *testing.T, c client.Client, target types.NamespacedName) string {
	t.Helper()
	var cluster v1alpha1.TargetCluster
	must(t, c.Get(t.Context(), target, &cluster))
	return cluster.ResourceVersion
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
