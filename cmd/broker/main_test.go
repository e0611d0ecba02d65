package main

import (
	"context"
	"crypto/tls"
	"flag"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
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

// TestServesAndStops runs the whole command: it gets ready, refuses, counts, and ends when its
// context does.
func TestServesAndStops(t *testing.T) {
	certDir := t.TempDir()
	roots := testenv.WriteCertificate(t, certDir)
	t.Setenv("KUBECONFIG", testenv.WriteKubeconfig(t, apiServer, ""))
	service, health, metrics := testenv.FreeAddress(t), testenv.FreeAddress(t), testenv.FreeAddress(t)

	program := testenv.Execute(t, command(),
		"--cert-dir="+certDir, "--listen-address="+service, "--health-address="+health, "--metrics-address="+metrics, "--log-level=1", "--allow-local-addresses")
	program.Ready(t, health)
	caller := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}}
	code, body := testenv.Ask(t, caller, http.MethodPost, "https://"+service+wire.TargetClusterPath("fleet", "tenant-1"), "")
	if code != http.StatusUnauthorized || !strings.Contains(body, `"reason":"Unauthorized"`) {
		t.Errorf("without a token: code %d: %s", code, body)
	}
	fleet := testenv.NewFleet(t, apiServer)
	token := podToken(t, fleet)
	askFor(t, caller, "https://"+service+wire.TargetClusterPath(fleet.Namespace, "tenant-1"), token, http.StatusOK)
	fleet.CreateBroken(t, "tenant-2")
	askFor(t, caller, "https://"+service+wire.TargetClusterPath(fleet.Namespace, "tenant-2"), token, http.StatusNotFound, "nobody")
	wantEvent(t, fleet)
	_, body = testenv.Ask(t, testenv.NewScraper(t, apiServer, roots, ""), http.MethodGet, "https://"+metrics+"/metrics", "")
	for _, want := range []string{
		`keyferry_issue_requests_total{cache="none",code="401",outcome="refused"} 1`,
		`keyferry_issue_requests_total{cache="miss",code="200",outcome="issued"} 1`,
		`keyferry_reviews_total{code="201",resource="tokenreviews"}`,
		`keyferry_target_last_success_timestamp_seconds{kind="TargetCluster",target="` + fleet.Namespace + `/tenant-1"}`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	metricstest.Check(t, "broker", body, *update)
	program.Stop(t)
}

func TestWrongFlags(t *testing.T) {
	t.Setenv("KUBECONFIG", testenv.WriteKubeconfig(t, apiServer, ""))
	certDir := t.TempDir()
	testenv.WriteCertificate(t, certDir)
	for want, args := range map[string][]string{
		"--log-level":    {"--log-level=2"},
		"unknown":        {"credentials"},
		"/no/such/place": {"--cert-dir=/no/such/place", "--health-address=0", "--metrics-address=0"},
		"/no/such/file":  {"--cert-dir=" + certDir, "--provider-file=/no/such/file", "--health-address=0", "--metrics-address=0"},
	} {
		cmd := command()
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want an error about %s", args, err, want)
		}
	}
}

// wantEvent waits for what the Pod is told of the refusal.
func wantEvent(t *testing.T, fleet *testenv.Fleet) {
	t.Helper()
	var told eventsv1.EventList
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		err := fleet.List(ctx, &told, client.InNamespace(fleet.Namespace))
		return len(told.Items) > 0, err
	})
	if err != nil {
		t.Fatalf("no Event: %v", err)
	}
	for i := range told.Items {
		event := &told.Items[i]
		if event.Regarding.Kind != "Pod" || event.Regarding.Name != "web-0" || event.Regarding.UID == "" || event.Type != corev1.EventTypeWarning ||
			event.Reason != v1alpha1.EventCredentialRefused || !strings.Contains(event.Note, "TargetCluster "+fleet.Namespace+"/tenant-") {
			t.Errorf("Event %+v", event)
		}
	}
}

// podToken is the token of a Pod of ServiceAccount web.
func podToken(t *testing.T, fleet *testenv.Fleet) string {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: fleet.Named("web-0"), Spec: corev1.PodSpec{
		ServiceAccountName: "web",
		Containers:         []corev1.Container{{Name: "app", Image: "example.org/app"}},
	}}
	must(t, fleet.Create(t.Context(), pod))
	token := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences:      []string{v1alpha1.BrokerAudience},
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	must(t, fleet.SubResource("token").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: fleet.Named("web")}, token))
	return token.Status.Token
}

// askFor asks for a credential until the answer is the one that is wanted: the broker's and the API
// server's caches lag.
func askFor(t *testing.T, caller *http.Client, url, token string, code int, texts ...string) {
	t.Helper()
	last := ""
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
		must(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := caller.Do(request)
		must(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		must(t, err)
		last = response.Status
		if response.StatusCode != http.StatusOK {
			last += ": " + string(text)
		}
		for _, want := range texts {
			if !strings.Contains(string(text), want) {
				return false, nil
			}
		}
		return response.StatusCode == code, nil
	})
	if err != nil {
		t.Fatalf("%s: %v: the last answer was %s", url, err, last)
	}
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
