//go:build long

package e2e

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/cluster"
	"github.com/keyferry/keyferry/e2e/release"
)

const (
	// overlap is how long both CAs are published before the server has a certificate of the new one:
	// client-go reads the CA again every five minutes, the slowest of those that do.
	overlap = 6 * time.Minute
	// settled is how long after that a client has found its way, or will not.
	settled = time.Minute
)

// clientProgram is a client of the matrix.
type clientProgram struct {
	name, image string
	command     []string
	// readsCAOnce is a limit of the client: told the target directly, it does not survive a new CA.
	readsCAOnce bool
}

// clientRun is a client with one delivery, and what it saw: a row of the table.
type clientRun struct {
	clientProgram
	delivery string
	pod      *corev1.Pod
	// before is its last word before the server had a certificate of the new CA, after the one when it
	// had settled.
	before, after report
	// renewals are the sidecar's, tokens those that the client sent, another one each tokenEvery.
	renewals, tokens int
	tokenEvery       time.Duration
}

// survives reports whether the client continues when the target's CA changes.
func (r *clientRun) survives() bool { return r.delivery == "proxy" || !r.readsCAOnce }

// TestClients runs clients of all kinds, with both deliveries, through renewals and a rotation of
// the target's CA, and writes the tables of docs/clients.md. The CA is one of a bundle as large as
// that of wellKnownCACertificates System. A cell that is not as it should be
// fails the test; so does a limit of a client that does not show.
func TestClients(t *testing.T) {
	programs, tools := clientPrograms(t)
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.allowAll(t)
	host, authority := forward(t, ns)
	public := publicCAs(t)
	tn.applyTargetCluster(t, endpointOf(host, together(t, public, authority)))
	tn.waitFor(t, "Ready", "True")
	runs := tn.startClients(t, ns, programs)

	following := selfMade(t, host)
	next := base64.StdEncoding.EncodeToString(following.authority)
	tn.applyTargetCluster(t, endpointOf(host, together(t, public, authority, next)))
	tn.waitFor(t, "Reachable", "True")
	published := time.Now()
	commands := tn.kubectlCommands(t, ns, tools)
	eventually(t, 2*overlap, "every client had the time to read both CAs", func() error {
		if time.Since(published) < overlap {
			return errors.New("not yet")
		}
		return nil
	})
	tn.watchesWork(t, runs)
	for _, r := range runs {
		r.beforeRotation(t)
	}

	following.forward(t, ns, "forward-next")
	replaceForwarder(t, ns, "forward", "forward-next")
	for _, r := range runs {
		r.afterRotation(t)
	}
	tn.applyTargetCluster(t, endpointOf(host, together(t, public, next)))
	tn.waitFor(t, "Reachable", "True")
	surviving := slices.DeleteFunc(slices.Clone(runs), func(r *clientRun) bool { return !r.survives() })
	tn.watchesWork(t, surviving)
	for _, r := range runs {
		if r.survives() {
			renewed(t, r.pod, 1)
			notRestarted(t, r.pod)
			continue
		}
		tn.startClient(t, ns, r)
		tn.works(t, ns, r.pod.Name, "client")
	}
	tn.ledThroughout(t, runs)
	if !t.Failed() {
		writeTable(t, "clients.md", "clients", clientTable(runs))
		writeTable(t, "clients.md", "kubectl", commands)
	}
}

// clientPrograms builds the images and puts them on the nodes. The second result is the image with
// all but Go's clients.
func clientPrograms(t *testing.T) ([]clientProgram, string) {
	t.Helper()
	built, err := release.Build(t.Context(), os.Stderr, "e2e-client-go-0.28", "e2e-manager")
	if err != nil {
		t.Fatal(err)
	}
	script := exec.CommandContext(t.Context(), filepath.Join(release.Root(), "e2e", "kind", "clients-image.sh"))
	script.Stderr = os.Stderr
	out, err := script.Output()
	if err != nil {
		t.Fatal(err)
	}
	tools, file, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	others := release.Images{"others": {Reference: tools, File: file}}
	built["others"] = others["others"]
	for c, images := range map[*cluster.Cluster]release.Images{suite.pair.Management: built, suite.pair.Target: others} {
		if err := release.Load(t.Context(), os.Stderr, c, images); err != nil {
			t.Fatal(err)
		}
	}
	return []clientProgram{
		{name: "client-go", image: suite.clientImage, command: []string{"/client", "-interval=1s", "-timeout=30s"}},
		{name: "client-go-old", image: built["e2e-client-go-0.28"].Reference, command: []string{"/client", "-interval=1s", "-timeout=30s"}, readsCAOnce: true},
		{name: "manager", image: built["e2e-manager"].Reference},
		{name: "python", image: tools, command: []string{"python3", "/programs/client.py"}},
		{name: "javascript", image: tools, command: []string{"node", "/programs/client.mjs"}},
		{name: "kubectl", image: tools, command: []string{"/programs/kubectl.sh"}},
	}, tools
}

// startClients starts each program with each delivery, and waits until all work.
func (tn tenant) startClients(t *testing.T, ns string, programs []clientProgram) []*clientRun {
	t.Helper()
	suite.management.kubectl(t, "create", "configmap", "programs", "-n", ns, "--from-file="+filepath.Join(release.Root(), "e2e", "testdata", "clients"))
	var runs []*clientRun
	for _, p := range programs {
		for _, delivery := range []string{"direct", "proxy"} {
			r := &clientRun{clientProgram: p, delivery: delivery}
			tn.startClient(t, ns, r)
			runs = append(runs, r)
		}
	}
	for _, r := range runs {
		tn.works(t, ns, r.pod.Name, "client")
		if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(r.pod), r.pod); err != nil {
			t.Fatal(err)
		}
	}
	return runs
}

// startClient starts a client; one that runs is replaced.
func (tn tenant) startClient(t *testing.T, ns string, r *clientRun) {
	t.Helper()
	r.pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: r.name + "-" + r.delivery}}
	if err := suite.management.Delete(t.Context(), r.pod.DeepCopy()); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "Pod "+r.pod.Name+" is gone", func() error {
		if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(r.pod), &corev1.Pod{}); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("it is still there"), err)
		}
		return nil
	})
	suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata:
  name: {{.Pod.Name}}
  namespace: {{.Pod.Namespace}}
  annotations:
    keyferry.dev/cluster: fleet/{{.Target}}
    keyferry.dev/delivery: {{.Delivery}}
    keyferry.dev/namespace: {{.Namespace}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: client
    image: {{.Image}}
    {{- if .Command}}
    command: [{{range .Command}}{{.}},{{end}}]
    {{- end}}
    volumeMounts: [{name: programs, mountPath: /programs}]
  volumes: [{name: programs, configMap: {name: programs, defaultMode: 0755}}]
`, map[string]any{"Pod": r.pod, "Target": tn.Target, "Namespace": tn.Namespace, "Delivery": r.delivery, "Image": r.image, "Command": r.command})
	if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(r.pod), r.pod); err != nil {
		t.Fatal(err)
	}
}

// watchesWork: what happens in the target gets to each client by its watch.
func (tn tenant) watchesWork(t *testing.T, runs []*clientRun) {
	t.Helper()
	seen := map[*clientRun]int{}
	for _, r := range runs {
		last, err := lastReport(t, r.pod, "client")
		if err != nil {
			t.Fatal(err)
		}
		seen[r] = last.WatchEvents
	}
	suite.target.kubectl(t, "annotate", "namespace", tn.Namespace, "--overwrite", fmt.Sprintf("e2e/marked=%d", time.Now().UnixNano()))
	for _, r := range runs {
		eventually(t, time.Minute, r.pod.Name+" hears of a change by its watch", func() error {
			last, err := lastReport(t, r.pod, "client")
			if err == nil && last.WatchEvents <= seen[r] {
				err = fmt.Errorf("still %d events", last.WatchEvents)
			}
			return err
		})
	}
}

// beforeRotation takes down what the client saw through renewals, with both CAs published.
func (r *clientRun) beforeRotation(t *testing.T) {
	t.Helper()
	all, err := reports(t.Context(), r.pod.Namespace, r.pod.Name, "client")
	if err != nil {
		t.Fatal(err)
	}
	r.before = all[len(all)-1]
	r.renewals = strings.Count(refresherLog(t, r.pod), `"msg":"credential renewed"`) - 1
	r.tokens = distinctTokens(all)
	var changes []time.Time
	for i := 1; i < len(all); i++ {
		if all[i].TokenSHA256 != all[i-1].TokenSHA256 {
			changes = append(changes, all[i].Time)
		}
	}
	if n := len(changes); n > 1 {
		r.tokenEvery = changes[n-1].Sub(changes[0]) / time.Duration(n-1)
	}
	if r.before.Failures != 0 {
		t.Errorf("%s: %d of %d requests failed, the last with %s", r.pod.Name, r.before.Failures, r.before.Requests, r.before.LastError)
	}
	if r.renewals < 3 {
		t.Errorf("%s: its sidecar renewed %d times, want 3 at least", r.pod.Name, r.renewals)
	}
	if direct := r.delivery == "direct"; direct && r.tokens < 4 || !direct && r.tokens != 1 {
		t.Errorf("%s: it sent %d tokens", r.pod.Name, r.tokens)
	}
}

// afterRotation waits until the client has settled with the server's new certificate, and compares
// with what is known of it.
func (r *clientRun) afterRotation(t *testing.T) {
	t.Helper()
	var all []report
	eventually(t, 2*settled, r.pod.Name+" has settled", func() (err error) {
		if all, err = reports(t.Context(), r.pod.Namespace, r.pod.Name, "client"); err == nil && all[len(all)-1].Time.Sub(r.before.Time) < settled {
			err = errors.New("not yet")
		}
		return err
	})
	r.after = all[len(all)-1]
	i := slices.IndexFunc(all, func(x report) bool { return x.Time.Sub(r.before.Time) > settled/2 })
	requests, failures := r.after.Requests-all[i].Requests, r.after.Failures-all[i].Failures
	switch {
	case requests == 0:
		t.Errorf("%s: it makes no requests any more", r.pod.Name)
	case r.survives() && failures != 0:
		t.Errorf("%s does not survive the new CA: %d of %d requests failed, the last with %s", r.pod.Name, failures, requests, r.after.LastError)
	case !r.survives() && (failures != requests || !strings.Contains(r.after.LastError, "x509: certificate signed by unknown authority")):
		t.Errorf("%s was expected not to know the new CA: %d of %d requests failed, the last with %s", r.pod.Name, failures, requests, r.after.LastError)
	}
}

// ledThroughout: no manager lost its Lease.
func (tn tenant) ledThroughout(t *testing.T, runs []*clientRun) {
	t.Helper()
	for _, r := range runs {
		if r.name != "manager" {
			continue
		}
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: tn.Namespace, Name: r.pod.Name}}
		if err := suite.target.Get(t.Context(), client.ObjectKeyFromObject(lease), lease); err != nil {
			t.Error(err)
			continue
		}
		if n := ptr.Deref(lease.Spec.LeaseTransitions, 0); n != 0 || time.Since(lease.Spec.RenewTime.Time) > time.Minute {
			t.Errorf("%s: its Lease changed hands %d times, and was renewed at %s", r.pod.Name, n, lease.Spec.RenewTime)
		}
	}
}

// kubectlCommands are those that need more than requests and answers. They run in the kubectl Pods,
// on a Pod of the target. It returns a table.
func (tn tenant) kubectlCommands(t *testing.T, ns, image string) string {
	t.Helper()
	suite.target.mustApply(t, `
apiVersion: v1
kind: Pod
metadata: {name: there, namespace: {{.NS}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: there
    image: {{.Image}}
    command: [bash, -c, "cd /tmp; echo from-there >index.html; python3 -m http.server 8080 >/dev/null 2>&1 & for ((i = 0; ; i++)); do echo line $i; sleep 1; done"]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`, map[string]any{"NS": tn.Namespace, "Image": image})
	suite.target.kubectl(t, "wait", "-n", tn.Namespace, "pod/there", "--for=condition=Ready", "--timeout=120s")
	var rows [][]string
	for _, delivery := range []string{"direct", "proxy"} {
		for _, protocol := range []string{"WebSocket", "SPDY"} {
			sockets := strconv.FormatBool(protocol == "WebSocket")
			out := suite.management.kubectl(t, "exec", "-n", ns, "kubectl-"+delivery, "-c", "client", "--", "env",
				"KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+sockets, "KUBECTL_PORT_FORWARD_WEBSOCKETS="+sockets, "/programs/commands.sh", delivery+"-"+sockets)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if strings.Contains(out, "FAILED") || len(lines) != 8 {
				t.Fatalf("kubectl, delivery %s, %s:\n%s", delivery, protocol, out)
			}
			if rows == nil {
				rows = make([][]string, len(lines))
			}
			for i, line := range lines {
				result, command, _ := strings.Cut(line, " ")
				if rows[i] == nil {
					rows[i] = []string{command}
				}
				rows[i] = append(rows[i], result)
			}
		}
	}
	return table([]string{"kubectl", "direct, WebSocket", "direct, SPDY", "proxy, WebSocket", "proxy, SPDY"}, rows)
}

func endpointOf(host, authority string) string {
	return fmt.Sprintf("{server: 'https://%s:8443', certificateAuthorityData: %s}", host, authority)
}

// publicCAs is the bundle of this system's CA certificates, in base64.
func publicCAs(t *testing.T) string {
	t.Helper()
	roots, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(roots, []byte("BEGIN CERTIFICATE")); n < 100 {
		t.Fatalf("this system has %d CA certificates: install ca-certificates", n)
	}
	return base64.StdEncoding.EncodeToString(roots)
}

// together is one bundle of several, all in base64.
func together(t *testing.T, bundles ...string) string {
	t.Helper()
	var all []byte
	for _, bundle := range bundles {
		pem, err := base64.StdEncoding.DecodeString(bundle)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, pem...)
	}
	return base64.StdEncoding.EncodeToString(all)
}

// allowAll gives the tenant every right in its namespace.
func (tn tenant) allowAll(t *testing.T) {
	t.Helper()
	suite.target.mustApply(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: all, namespace: {{.Namespace}}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: tenant, namespace: {{.Namespace}}}]
`, tn)
}

// clientTable is what the clients saw, a row for each.
func clientTable(runs []*clientRun) string {
	var rows [][]string
	for _, r := range runs {
		tokens, rotation, note := "1", "continues", "the token is the proxy's own"
		if r.delivery == "direct" {
			tokens, note = strconv.Itoa(r.tokens), fmt.Sprintf("another token every %d s", int(r.tokenEvery.Seconds()))
		}
		if !r.survives() {
			rotation = "needs a restart"
			note += "; with the new CA, requests fail with " + verification(r.after.LastError) + " until the program restarts"
		}
		rows = append(rows, []string{
			r.before.Client, r.delivery, strconv.Itoa(r.before.Requests), strconv.Itoa(r.before.Failures), strconv.Itoa(r.renewals), tokens,
			rotation, strconv.Itoa(r.after.Failures - r.before.Failures), note,
		})
	}
	return table([]string{"client", "delivery", "requests", "failed", "renewals", "tokens sent", "new CA", "failed then", "note"}, rows)
}

// verification is what an error says of a certificate, without the names of a test.
func verification(message string) string {
	_, found, _ := strings.Cut(message, "x509: ")
	found, _, _ = strings.Cut(found, " (")
	return "`x509: " + found + "`"
}
