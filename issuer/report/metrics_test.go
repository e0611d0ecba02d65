package report

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
	"github.com/keyferry/keyferry/issuer/resolve"
	"github.com/keyferry/keyferry/providers"
)

func TestMeasures(t *testing.T) {
	c, name := setUp(t)
	registry, now := prometheus.NewRegistry(), start
	m, err := newCollector(Config{Metrics: registry, Client: c, Now: func() time.Time { return now }})
	must(t, err)
	event := issuer.Event{TargetCluster: name, Provider: v1alpha1.AccessEKS, Issue: v1alpha1.IssueTokenRequest, Took: 30 * time.Millisecond, NotAfter: start.Add(time.Hour)}
	m.observe(event)
	now = now.Add(time.Minute)
	event.NotAfter = start.Add(2 * time.Hour)
	m.observe(event)
	now = now.Add(time.Minute)
	event.NotAfter = start.Add(time.Minute) // another identity's, which ends sooner
	m.observe(event)
	now = now.Add(time.Minute)
	event.Err, event.Kept = providers.Unavailable(0, errors.New("planted-text")), true
	m.observe(event)
	profile := types.NamespacedName{Namespace: "fleet", Name: "one"}
	m.observe(issuer.Event{ClusterProfile: profile, Provider: v1alpha1.AccessExec, Issue: v1alpha1.IssueAccess, Err: &resolve.InvalidError{Reason: "planted-reason"}})

	labels := fmt.Sprintf(`{kind="TargetCluster",target=%q} `, name.String())
	got := scrape(t, registry)
	for _, want := range []string{
		`keyferry_provider_requests_total{issue="TokenRequest",outcome="issued",provider="EKS"} 3`,
		`keyferry_provider_requests_total{issue="TokenRequest",outcome="unavailable",provider="EKS"} 1`,
		`keyferry_provider_requests_total{issue="Access",outcome="invalid",provider="Exec"} 1`,
		`keyferry_provider_duration_seconds_count{issue="TokenRequest",provider="EKS"} 4`,
		"keyferry_target_last_success_timestamp_seconds" + labels + seconds(start.Add(2*time.Minute)),
		"keyferry_target_last_failure_timestamp_seconds" + labels + seconds(start.Add(3*time.Minute)),
		"keyferry_target_credential_expiration_timestamp_seconds" + labels + seconds(start.Add(2*time.Hour)),
		`keyferry_target_last_failure_timestamp_seconds{kind="ClusterProfile",target="fleet/one"} `,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "planted") || strings.Contains(got, `last_success_timestamp_seconds{kind="ClusterProfile"`) {
		t.Errorf("too much in\n%s", got)
	}

	now = now.Add(forgetAfter)
	if got := scrape(t, registry); !strings.Contains(got, labels) {
		t.Errorf("forgot a target too soon:\n%s", got)
	}
	must(t, c.Delete(t.Context(), &v1alpha1.TargetCluster{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}}))
	now = now.Add(time.Second)
	if got := scrape(t, registry); strings.Contains(got, "keyferry_target_") {
		t.Errorf("a deleted target, and one that nobody asks for, are still there:\n%s", got)
	}
}

// TestMeasuresAreBounded: users who may name targets cannot fill the memory of the broker, or of
// Prometheus.
func TestMeasuresAreBounded(t *testing.T) {
	m, err := newCollector(Config{Metrics: prometheus.NewRegistry(), Now: time.Now})
	must(t, err)
	for i := range 2 * maxTargets {
		m.observe(issuer.Event{ClusterProfile: types.NamespacedName{Namespace: "fleet", Name: fmt.Sprint(i)}})
	}
	if len(m.targets) > maxTargets {
		t.Errorf("knows %d targets", len(m.targets))
	}
}

func seconds(at time.Time) string { return fmt.Sprintf("%v\n", float64(at.Unix())) }

func scrape(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	return recorder.Body.String()
}
