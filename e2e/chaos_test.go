//go:build long

package e2e

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/chaos"
	"github.com/keyferry/keyferry/e2e/release"
)

const (
	chaosPods = 30
	// Credentials are said to end after two minutes, so they are renewed after one. The stand-in for
	// the target takes them for three. So from a renewal to the end there are two minutes, as of a
	// token of ten minutes, the shortest that API servers issue. Of these, client-go may need 50 s
	// until it reads a file again.
	reportedLife, enforcedLife = 2 * time.Minute, 3 * time.Minute
	// faultTime is how long things go wrong at once, and calmTime how long at least they do not after
	// that.
	faultTime, calmTime = 15 * time.Second, 10 * time.Second
)

// TestChaos: programs are killed, networks fail and sources misbehave, by a schedule that a seed
// repeats, while Pods with both deliveries and readers of Secrets work on a target. No request
// fails for lack of a valid credential, and nothing is left in the target.
func TestChaos(t *testing.T) {
	seed, duration := chaosSettings(t)
	t.Logf("KEYFERRY_CHAOS_SEED=%d KEYFERRY_CHAOS_DURATION=%s repeats this schedule", seed, duration)
	// API servers that start refuse what they have not read the rights of.
	defer suite.witness.changed(time.Now())
	suite.install(t, fmt.Sprintf("maxCredentialLifetime: %s\n", reportedLife))
	w := newChaosWorld(t)
	before := w.objectsInTarget(t)
	w.start(t)

	report := &chaos.Report{Seed: seed, Duration: duration, Pods: chaosPods, Before: before}
	begin := time.Now()
	next := func(faults []chaos.Fault) {
		report.Phases = append(report.Phases, &chaos.Phase{Start: time.Now(), Faults: faults})
		report.Secrets = append(report.Secrets, &chaos.Phase{Start: time.Now(), Faults: faults})
		t.Logf("%4s %s", time.Since(begin).Round(time.Second), chaos.Name(faults))
	}
	next(nil)
	pause(t, calmTime)
	for schedule := chaos.NewSchedule(seed); time.Since(begin) < duration; {
		next(schedule.Next())
		w.inflict(t, report.Phases[len(report.Phases)-1].Faults)
		pause(t, faultTime)
		w.heal(t)
		pause(t, calmTime)
	}
	// What was left undone is done by now.
	next(nil)
	pause(t, time.Minute)

	report.Duration = time.Since(begin)
	w.account(t, report, begin)
	w.end(t)
	eventually(t, 2*time.Minute, "nothing is left in the target", func() error {
		if report.After = w.objectsInTarget(t); report.After != before {
			return fmt.Errorf("there were %d objects, and there are %d", before, report.After)
		}
		return nil
	})
	t.Logf("\n%s", report.Table())
	for _, failure := range report.Failures() {
		t.Error(failure)
	}
	if !t.Failed() {
		publish(t, report)
	}
}

// chaosSettings are a seed, of chance if nobody names one, and how long the run takes.
func chaosSettings(t *testing.T) (seed uint64, duration time.Duration) {
	t.Helper()
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("KEYFERRY_CHAOS_SEED"), strconv.FormatInt(time.Now().Unix(), 10)), 10, 64)
	if err != nil {
		t.Fatalf("KEYFERRY_CHAOS_SEED: %v", err)
	}
	if duration, err = time.ParseDuration(cmp.Or(os.Getenv("KEYFERRY_CHAOS_DURATION"), "10m")); err != nil {
		t.Fatalf("KEYFERRY_CHAOS_DURATION: %v", err)
	}
	return seed, duration
}

// pause lets things go on as they are.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal("interrupted")
	}
}

// chaosWorld is who takes part.
type chaosWorld struct {
	namespace string
	// tokens issues by TokenRequest, handed hands on what a source issues, secrets is for
	// CredentialRequests; the latter's tokens can be revoked.
	tokens, handed, secrets tenant
	pods                    []corev1.Pod
	// restartedBefore counts restarts of applications before the first fault.
	restartedBefore int
	readers         []*secretReader
	// parties are the addresses of each.
	parties map[string][]string
}

func newChaosWorld(t *testing.T) *chaosWorld {
	t.Helper()
	w := &chaosWorld{namespace: suite.management.namespace(t, nil), tokens: newStranger(t), handed: newStranger(t), secrets: newStranger(t)}
	host, authority := forwardFor(t, w.namespace, enforcedLife)
	endpoint := "{server: 'https://" + host + ":8443', certificateAuthorityData: " + authority + "}"

	w.tokens.secret(t, fleet, map[string][]byte{"kubeconfig": accessKubeconfig(t, w.tokens.Namespace)})
	w.tokens.applyTargetCluster(t, endpoint)

	w.handed.serveSource(t, w.namespace, "tenant")
	w.handed.secret(t, fleet, map[string][]byte{"username": []byte("keyferry"), "password": []byte(sourcePassword)})
	w.handed.applySpec(t, "endpoint: "+endpoint+"\naccess: {type: Spider, spider: {url: 'http://source."+w.namespace+".svc', cluster: c, connection: d, credentials: {name: "+w.handed.Target+"}}}\nissue: {type: Access}\n")

	w.secrets.secret(t, fleet, map[string][]byte{"kubeconfig": accessKubeconfig(t, w.secrets.Namespace)})
	w.secrets.mayRevoke(t)
	w.secrets.applySpec(t, "access: {type: Kubeconfig, kubeconfig: {name: "+w.secrets.Target+"}}\nissue: "+strings.Replace(w.secrets.tokenRequest(), "duration", "revocable: true, duration", 1)+"\n")
	for _, tn := range []tenant{w.tokens, w.handed, w.secrets} {
		tn.waitFor(t, "Ready", "True")
	}
	w.tokens.allow(t, w.namespace, "default")
	w.handed.allow(t, w.namespace, "default")
	w.secrets.allow(t, requests, w.secrets.Target)
	return w
}

// start has Pods and readers work.
func (w *chaosWorld) start(t *testing.T) {
	t.Helper()
	for i := range chaosPods {
		tn := []tenant{w.tokens, w.handed}[i%2]
		suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata:
  name: {{.Name}}
  namespace: {{.NS}}
  labels: {app: chaos}
  annotations: {keyferry.dev/cluster: fleet/{{.Target}}, keyferry.dev/delivery: {{.Delivery}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: client, image: {{.Image}}, args: [--interval=1s]}
`, map[string]any{"Name": fmt.Sprintf("chaos-%02d", i), "NS": w.namespace, "Target": tn.Target, "Image": suite.clientImage, "Delivery": []string{"direct", "proxy"}[i/2%2]})
	}
	eventually(t, 5*time.Minute, "all Pods run", func() error {
		var pods corev1.PodList
		if err := suite.management.List(t.Context(), &pods, client.InNamespace(w.namespace), client.MatchingLabels{"app": "chaos"}); err != nil {
			return err
		}
		w.pods, w.restartedBefore = pods.Items, 0
		for i := range w.pods {
			if p := &w.pods[i]; p.Status.Phase != corev1.PodRunning || len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Running == nil {
				return fmt.Errorf("%s does not", p.Name)
			}
			w.restartedBefore += int(w.pods[i].Status.ContainerStatuses[0].RestartCount)
		}
		return nil
	})
	for _, form := range []string{"kubeconfig", "tokenFile"} {
		w.readers = append(w.readers, readSecret(t, w.secrets.request(t, form)))
	}
	w.findParties(t)
}

// end takes away what was issued.
func (w *chaosWorld) end(t *testing.T) {
	t.Helper()
	for _, r := range w.readers {
		r.stop()
		made := w.secrets.object()
		made.SetKind("CredentialRequest")
		made.SetNamespace(requests)
		made.SetName(r.name)
		if err := suite.management.Delete(t.Context(), made); err != nil {
			t.Fatal(err)
		}
	}
	if err := suite.management.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(w.namespace), client.MatchingLabels{"app": "chaos"}); err != nil {
		t.Fatal(err)
	}
}

// objectsInTarget counts what could be left there.
func (w *chaosWorld) objectsInTarget(t *testing.T) (n int) {
	t.Helper()
	for _, tn := range []tenant{w.tokens, w.handed, w.secrets} {
		for _, list := range []client.ObjectList{&corev1.SecretList{}, &corev1.ServiceAccountList{}, &corev1.ConfigMapList{}, &rbacv1.RoleList{}, &rbacv1.RoleBindingList{}} {
			if err := suite.target.List(t.Context(), list, client.InNamespace(tn.Namespace)); err != nil {
				t.Fatal(err)
			}
			n += meta.LenList(list)
		}
	}
	return n
}

// publish writes the run into the documentation: all of it, and its row in the table of runs.
func publish(t *testing.T, report *chaos.Report) {
	t.Helper()
	file := filepath.Join(release.Root(), "docs", "reliability.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	commit, err := release.Commit(t.Context(), "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	text := replaceBlock(t, string(page), "<!-- runs of make e2e-chaos -->\n", "<!-- end of the runs -->\n", func(runs string) string {
		return report.AddRun(runs, commit)
	})
	text = replaceBlock(t, text, "<!-- written by make e2e-chaos -->\n", "<!-- end of what it wrote -->\n", func(string) string {
		return "```text\n" + report.Table() + "```\n"
	})
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replaceBlock replaces what is between begin and end in docs/reliability.md.
func replaceBlock(t *testing.T, page, begin, end string, replace func(block string) string) string {
	t.Helper()
	head, rest, found := strings.Cut(page, begin)
	block, tail, ends := strings.Cut(rest, end)
	if !found || !ends {
		t.Fatalf("docs/reliability.md lacks %q or %q", begin, end)
	}
	return head + begin + replace(block) + end + tail
}
