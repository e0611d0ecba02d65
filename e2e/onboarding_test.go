package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/release"
)

// TestFiveCommands runs the commands of the README's quick start, from two contexts of a kubeconfig
// to a Pod that works on the target. The first two, which install Keyferry, the suite has run.
// Names are the test's own, and so is the image.
func TestFiveCommands(t *testing.T) {
	commands := quickStart(t)
	if len(commands) != 5 || !strings.HasPrefix(commands[0], "kubectl create namespace fleet") || !strings.HasPrefix(commands[1], "helm install keyferry ") {
		t.Fatalf("the quick start has the commands %q; want five, of which the first two install Keyferry", commands)
	}
	ns := suite.management.namespace(t, nil)
	name := ns // of the TargetCluster
	kubeconfig := twoContexts(t)
	own := strings.NewReplacer(
		"fleet/tenant-1", fleet+"/"+name,
		"default/default", ns+"/default",
		"run web", "run web --namespace="+ns,
		"registry.k8s.io/kubectl:v1.36.0 -- get namespaces --watch", suite.clientImage,
	)
	t.Cleanup(func() {
		if suite.keep && t.Failed() {
			return
		}
		out, err := suite.withKubeconfig(kubeconfig, suite.program, "target", "remove", fleet+"/"+name, "--context", "tenant-1", "--force").CombinedOutput()
		if err != nil {
			t.Errorf("keyferry target remove: %v\n%s", err, out)
		}
	})
	start := time.Now()
	for i, command := range commands[2:] {
		words := strings.Fields(own.Replace(command))
		program := map[string]string{"keyferry": suite.program, "kubectl": suite.kubectl}[words[0]]
		if i == 0 && suite.targetServer != suite.target.config.Host {
			words = append(words, "--endpoint", suite.targetServer)
		}
		out, err := suite.withKubeconfig(kubeconfig, program, words[1:]...).CombinedOutput()
		t.Logf("%s\n%s", strings.Join(words, " "), out)
		if err != nil {
			t.Fatal(err)
		}
	}
	access := &corev1.Secret{}
	if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: fleet, Name: name}, access); err != nil {
		t.Fatal(err)
	}
	plantIssued(access)
	tn := tenant{Namespace: "keyferry-pods", User: "system:serviceaccount:keyferry-pods:" + fleet + "." + name, Target: name, Server: suite.targetServer}
	tn.works(t, ns, "web", "web")
	t.Logf("from the third command to the Pod's first answer: %s", time.Since(start).Round(time.Second))

	suite.keyferry(t, 0, "check", "web", "-n", ns)
	out, err := suite.withKubeconfig(kubeconfig, suite.program, "target", "rotate", fleet+"/"+name, "--context", "tenant-1").CombinedOutput()
	if err != nil {
		t.Errorf("keyferry target rotate: %v\n%s", err, out)
	}
	tn.works(t, ns, "web", "web")
	tn.waitFor(t, "Ready", "True")
	suite.management.kubectl(t, "delete", "pod", "web", "-n", ns, "--wait")
}

// quickStart returns the commands in the README's section of that name.
func quickStart(t *testing.T) []string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(release.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Quick start\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var commands []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
		commands = append(commands, strings.Split(strings.TrimSpace(block[1]), "\n")...)
	}
	return commands
}

// twoContexts is a kubeconfig in which the management cluster is current, and tenant-1 is the
// target.
func twoContexts(t *testing.T) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(suite.management.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	target, err := clientcmd.LoadFromFile(suite.target.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	current := target.Contexts[target.CurrentContext]
	config.Clusters["tenant-1"] = target.Clusters[current.Cluster]
	config.AuthInfos["tenant-1"] = target.AuthInfos[current.AuthInfo]
	config.Contexts["tenant-1"] = current
	current.Cluster, current.AuthInfo = "tenant-1", "tenant-1"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// withKubeconfig returns a program that is to be run with a kubeconfig, also after the test has
// ended.
func (e environment) withKubeconfig(kubeconfig, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	return cmd
}
