//go:build clients

package e2e

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/cluster"
	"github.com/keyferry/keyferry/e2e/release"
)

// clientProgram is a row of the matrix.
type clientProgram struct {
	name, title string
	image       string
	command     []string
}

// column is what one client saw with one delivery.
type column struct {
	requests, failures, tokens int
	// rotated says how it went on when the server had a certificate of the new CA; failed is how many requests failed on the way.
	rotated string
	failed  int
}

// TestClients runs clients of all kinds, with both deliveries, through renewals and a rotation of the target's CA, and writes the table of
// docs/clients.md.
func TestClients(t *testing.T) {
	t.Parallel()
	mixed, programs := clientPrograms(t)
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.allowAll(t)
	host, authority := forward(t, ns)
	tn.applyTargetCluster(t, endpointOf(host, authority))
	tn.waitFor(t, "Ready", "True")

	deliveries := []string{"direct", "proxy"}
	pods := map[string]*corev1.Pod{}
	for _, delivery := range deliveries {
		for _, p := range programs {
			name := p.name + "-" + delivery
			suite.management.mustApply(t, clientPod, map[string]any{
				"NS": ns, "Name": name, "Target": tn.Target, "Delivery": delivery, "Namespace": tn.Namespace, "Image": p.image, "Command": p.command,
			})
		}
	}
	for _, delivery := range deliveries {
		for _, p := range programs {
			name := p.name + "-" + delivery
			tn.works(t, ns, name, "client")
			pods[name] = &corev1.Pod{}
			if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, pods[name]); err != nil {
				t.Fatal(err)
			}
		}
	}
	tn.kubectlCommands(t, ns, mixed)

	table := map[string]*column{}
	t.Log("waiting for renewals: clients read a token again about once a minute")
	for name := range pods {
		table[name] = &column{}
		eventually(t, 6*time.Minute, name+" has seen three tokens", func() error {
			all, err := reports(t.Context(), ns, name, "client")
			if err != nil {
				return err
			}
			last := all[len(all)-1]
			c := table[name]
			c.requests, c.failures, c.tokens = last.Requests, last.Failures, distinctTokens(all)
			if strings.HasSuffix(name, "-direct") && c.tokens < 3 {
				return fmt.Errorf("so far %d", c.tokens)
			}
			return nil
		})
		if strings.HasSuffix(name, "-proxy") {
			renewed(t, pods[name], 3)
		}
		if c := table[name]; c.failures != 0 {
			t.Errorf("%s: %d of %d requests failed", name, c.failures, c.requests)
		}
	}

	tn.rotate(t, ns, host, authority, pods, table)
	for name, c := range table {
		if strings.HasSuffix(name, "-proxy") && c.rotated != "goes on" {
			t.Errorf("%s did not survive the new CA behind its proxy: %s", name, c.rotated)
		}
	}
	writeTable(t, programs, table)
}

// rotate publishes old and new CA together, waits as long as the slowest client takes to read it, and then has the server present a certificate
// of the new one.
func (tn tenant) rotate(t *testing.T, ns, host, authority string, pods map[string]*corev1.Pod, table map[string]*column) {
	t.Helper()
	// Behind the address, but not in the Service yet.
	label(t, ns, "forward", "old")
	setSelector(t, ns, "forward", "old")
	next := forwarder(t, ns, "forward-2", host)
	suite.management.kubectl(t, "wait", "-n", ns, "pod/forward-2", "--for=condition=Ready", "--timeout=60s")
	tn.applyTargetCluster(t, endpointOf(host, together(t, authority, next)))
	tn.waitFor(t, "Reachable", "True")
	t.Log("old and new CA are published; client-go reads the CA again every five minutes")
	published := time.Now()
	before := map[string]report{}
	eventually(t, 8*time.Minute, "six minutes with both CAs", func() error {
		if time.Since(published) < 6*time.Minute {
			return errors.New("not yet")
		}
		return nil
	})
	for name := range pods {
		before[name] = tn.works(t, ns, name, "client")
		if n := before[name].Failures; n != 0 {
			t.Errorf("%s: %d requests failed while both CAs were published", name, n)
		}
	}
	setSelector(t, ns, "forward", "forward")
	suite.management.kubectl(t, "delete", "-n", ns, "pod/forward")
	for name := range pods {
		table[name].rotated, table[name].failed = goesOn(t, ns, name, before[name])
	}
}

func endpointOf(host, authority string) string {
	return fmt.Sprintf("{server: 'https://%s:8443', certificateAuthorityData: %s}", host, authority)
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

// label changes the label by which a Service finds a Pod.
func label(t *testing.T, namespace, pod, app string) {
	t.Helper()
	suite.management.kubectl(t, "label", "-n", namespace, "pod/"+pod, "app="+app, "--overwrite")
}

// setSelector has a Service lead to Pods with another label app.
func setSelector(t *testing.T, namespace, service, app string) {
	t.Helper()
	object := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: service}}
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"selector":{"app":"`+app+`"}}}`))
	if err := suite.management.Patch(t.Context(), object, patch); err != nil {
		t.Fatal(err)
	}
}

// goesOn waits until a client makes requests again that do not fail, for a minute and a half.
func goesOn(t *testing.T, ns, name string, before report) (string, int) {
	t.Helper()
	last := before
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Second) {
		all, err := reports(t.Context(), ns, name, "client")
		if err != nil {
			continue
		}
		previous := last
		last = all[len(all)-1]
		if last.Requests < before.Requests {
			return "is restarted", 0
		}
		if last.Requests > previous.Requests+5 && last.Failures == previous.Failures && last.Time.Sub(before.Time) > 20*time.Second {
			return "goes on", last.Failures - before.Failures
		}
	}
	return "needs a restart", last.Failures - before.Failures
}

const clientPod = `
apiVersion: v1
kind: Pod
metadata:
  name: {{.Name}}
  namespace: {{.NS}}
  annotations:
    keyferry.dev/cluster: fleet/{{.Target}}
    keyferry.dev/delivery: {{.Delivery}}
    keyferry.dev/namespace: {{.Namespace}}
    keyferry.dev/on-endpoint-change: ignore
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: client
    image: {{.Image}}
    {{- if .Command}}
    command: [{{range .Command}}{{.}},{{end}}]
    {{- end}}
`

// clientPrograms builds the images and puts them on the nodes. The first result is the image with more than one client.
func clientPrograms(t *testing.T) (string, []clientProgram) {
	t.Helper()
	built, err := release.Build(t.Context(), os.Stderr, "e2e-client", "e2e-client-go-0.28", "e2e-manager")
	if err != nil {
		t.Fatal(err)
	}
	script := exec.CommandContext(t.Context(), filepath.Join(release.Root(), "e2e", "kind", "clients-image.sh"))
	script.Stderr = os.Stderr
	out, err := script.Output()
	if err != nil {
		t.Fatal(err)
	}
	reference, file, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	mixed := release.Image{Reference: reference, File: file}
	for c, images := range map[*cluster.Cluster]release.Images{
		suite.pair.Management: {"go": built["e2e-client"], "old": built["e2e-client-go-0.28"], "manager": built["e2e-manager"], "mixed": mixed},
		suite.pair.Target:     {"mixed": mixed},
	} {
		if err := release.Load(t.Context(), os.Stderr, c, images); err != nil {
			t.Fatal(err)
		}
	}
	return mixed.Reference, []clientProgram{
		{"client-go", "client-go v0.37", built["e2e-client"].Reference, nil},
		{"client-go-old", "client-go v0.28", built["e2e-client-go-0.28"].Reference, nil},
		{"manager", "controller-runtime v0.25, leader election", built["e2e-manager"].Reference, nil},
		{"python", "Python kubernetes " + version(t, mixed.Reference, "python3", "-c", "import kubernetes, platform; print(kubernetes.__version__, 'on Python', platform.python_version())"), mixed.Reference, []string{"python3", "/client/client.py"}},
		{"javascript", "JavaScript @kubernetes/client-node " + version(t, mixed.Reference, "node", "-p", "require('/client/node_modules/@kubernetes/client-node/package.json').version + ' on Node.js ' + process.version"), mixed.Reference, []string{"node", "/client/client.mjs"}},
		{"kubectl", "kubectl " + version(t, mixed.Reference, "kubectl", "version", "--client", "-o", "jsonpath={.clientVersion.gitVersion}"), mixed.Reference, []string{"/client/kubectl.sh"}},
	}
}

// version runs a command in a Pod of the image and returns what it prints.
func version(t *testing.T, image string, command ...string) string {
	t.Helper()
	ns := suite.management.namespace(t, nil)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "version"},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "version", Image: image, Command: command}}},
	}
	if err := suite.management.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the version is printed", func() error {
		if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodSucceeded {
			return fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return nil
	})
	return strings.TrimSpace(suite.management.kubectl(t, "logs", "-n", ns, "version"))
}

// kubectlCommands are those that need more than requests and answers. They run in the kubectl Pods, on a Pod of the target.
func (tn tenant) kubectlCommands(t *testing.T, ns, image string) {
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
	suite.target.kubectl(t, "wait", "-n", tn.Namespace, "pod/there", "--for=condition=Ready", "--timeout=60s")
	for _, delivery := range []string{"direct", "proxy"} {
		for _, sockets := range []string{"true", "false"} {
			out := suite.management.kubectl(t, "exec", "-n", ns, "kubectl-"+delivery, "-c", "client", "--", "env",
				"KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+sockets, "KUBECTL_PORT_FORWARD_WEBSOCKETS="+sockets, "/client/commands.sh", delivery+"-"+sockets)
			t.Logf("kubectl, %s, WebSocket %s:\n%s", delivery, sockets, out)
			if strings.Contains(out, "FAILED") || strings.Count(out, "ok ") != 8 {
				t.Errorf("kubectl, delivery %s, WebSocket %s:\n%s", delivery, sockets, out)
			}
		}
	}
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

// writeTable writes the table of docs/clients.md.
func writeTable(t *testing.T, programs []clientProgram, table map[string]*column) {
	t.Helper()
	server, err := suite.target.clientset.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "`make e2e-clients` on %s, target Kubernetes %s:\n\n", time.Now().UTC().Format(time.DateOnly), server.GitVersion)
	fmt.Fprintln(&text, "| client | delivery | requests until rotation | failed | tokens seen | new server certificate | failed then |\n|---|---|---|---|---|---|---|")
	for _, p := range programs {
		for _, delivery := range []string{"direct", "proxy"} {
			c := table[p.name+"-"+delivery]
			fmt.Fprintf(&text, "| %s | %s | %d | %d | %d | %s | %d |\n", p.title, delivery, c.requests, c.failures, c.tokens, c.rotated, c.failed)
		}
	}
	file := filepath.Join(release.Root(), "docs", "clients.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- table: written by make e2e-clients -->\n", "<!-- end of table -->"
	before, rest, found := strings.Cut(string(page), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table", file)
	}
	if err := os.WriteFile(file, []byte(before+begin+text.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
