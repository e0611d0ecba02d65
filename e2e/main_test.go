// Package e2e shows on two real clusters what Keyferry promises, from outside: through the Helm
// chart, kubectl and what Pods print.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/tools/clientcmd"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/keyferry/keyferry/e2e/cluster"
	"github.com/keyferry/keyferry/e2e/leak"
	"github.com/keyferry/keyferry/e2e/release"
)

// suite is what all tests share; TestMain sets it up before the first one.
var suite environment

type environment struct {
	pair               *cluster.Pair
	management, target *kube
	// targetServer and targetCA are the target's address for Pods of the management cluster.
	targetServer string
	targetCA     []byte

	images                                       release.Images
	clientImage, podtoolsImage, certManagerImage string
	// release is the namespace of Keyferry.
	release string
	// program and kubectl are paths of programs.
	program, kubectl string
	// runDir takes logs.
	runDir string
	// imageVolumes reports whether Kubernetes of the management cluster has image volumes by default.
	imageVolumes bool
	// keep leaves clusters, and the namespaces of failed tests.
	keep bool
	// secrets are those that the tests know of.
	secrets *leak.Secrets
	witness *witness
}

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code) //nolint:gocritic // what stop undoes ends with the process
}

func run(ctx context.Context, m *testing.M) (code int, err error) {
	ctrllog.SetLogger(logr.Discard()) // controller-runtime complains if there is none
	pair, created, err := cluster.Up(ctx, os.Stderr)
	if err != nil {
		return 1, err
	}
	suite.keep = os.Getenv("KEYFERRY_E2E_KEEP") != ""
	if created && !suite.keep {
		defer func() { err = errors.Join(err, cluster.Down(os.Stderr)) }()
	}
	if suite.witness, err = newWitness(pair); err != nil {
		return 1, err
	}
	defer suite.witness.stop()
	if err := setUp(ctx, pair); err != nil {
		return 1, err
	}
	// A test knows no context but its own: where somebody interrupts, the clusters go, and with them
	// what it waits for.
	done := make(chan int, 1)
	go func() { done <- m.Run() }()
	select {
	case code = <-done:
	case <-ctx.Done():
		return 1, errors.New("interrupted")
	}
	return code, afterwards(ctx, code == 0 && wholeRun())
}

// afterwards keeps the logs of Keyferry itself, and has the witness report.
func afterwards(ctx context.Context, whole bool) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return errors.Join(
		collectLogs(ctx, suite.management, suite.release, filepath.Join(suite.runDir, "logs", suite.release)),
		suite.witness.report(ctx, os.Stderr, whole),
	)
}

// setUp installs Keyferry.
func setUp(ctx context.Context, pair *cluster.Pair) (err error) {
	suite.pair, suite.release, suite.runDir, suite.secrets = pair, release.Namespace, cluster.Dir(), &leak.Secrets{}
	if suite.management, err = connect(pair.Management.Kubeconfig); err != nil {
		return err
	}
	if suite.target, err = connect(pair.Target.Kubeconfig); err != nil {
		return err
	}
	server, err := suite.management.clientset.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	suite.imageVolumes = version.MustParseGeneric(server.GitVersion).AtLeast(version.MajorMinor(1, 35))
	internal, err := clientcmd.BuildConfigFromFlags("", pair.Target.InternalKubeconfig)
	if err != nil {
		return err
	}
	suite.targetServer, suite.targetCA = internal.Host, internal.CAData
	if suite.kubectl, err = kubectl(); err != nil {
		return err
	}
	suite.program = filepath.Join(suite.runDir, "keyferry")
	build := exec.CommandContext(ctx, "tools/build", "v0.0.0-e2e", suite.runDir, "./cmd/keyferry")
	build.Dir = release.Root()
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building keyferry: %w\n%s", err, out)
	}
	suite.images, err = release.Build(ctx, os.Stderr, "keyferry", "refresher", "e2e-client", "e2e-podtools", "e2e-secretreader", "e2e-certmanager")
	if err != nil {
		return err
	}
	suite.clientImage, suite.podtoolsImage = suite.images["e2e-client"].Reference, suite.images["e2e-podtools"].Reference
	suite.certManagerImage = suite.images["e2e-certmanager"].Reference
	if err := release.Load(ctx, os.Stderr, pair.Management, suite.images); err != nil {
		return err
	}
	if err := removeLeftovers(ctx, os.Stderr); err != nil {
		return err
	}
	for _, name := range []string{fleet, requests} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := suite.management.Create(ctx, ns); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return suite.installation(ctx, "")
}

// installation installs or upgrades Keyferry with the suite's values and further ones.
func (e environment) installation(ctx context.Context, further string) error {
	defer e.witness.changed(time.Now())
	return release.Install(ctx, os.Stderr, e.pair.Management, e.images, e.values(), further)
}

// values are the suite's.
func (e environment) values() string {
	all := fmt.Sprintf(values, fleet, requests, e.images["e2e-secretreader"].Reference)
	if e.imageVolumes {
		all += e.pluginVolume()
	}
	return all
}

// pluginVolume is the value that brings the plugin into broker and controller.
func (e environment) pluginVolume() string {
	return fmt.Sprintf(pluginVolume, e.images["e2e-secretreader"].Reference)
}

func (e environment) install(t *testing.T, further string) {
	t.Helper()
	if err := e.installation(t.Context(), further); err != nil {
		t.Fatal(err)
	}
}

// values: credentials live 20 s at most, so that minutes see many renewals. The plugin is one of
// the community's, which reads a token from a Secret by the identity of the program that runs it:
// the Pod, or Keyferry, which has the program by a volume.
const values = `
maxCredentialLifetime: 20s
refresher: {restartSpread: 3s}
secretAccess: {namespaces: [%[1]s]}
credentialRequests: {namespaces: [%[2]s]}
providerFile:
  providers:
  - name: secretreader
    image: %[3]s
    runIn: Pod
    execConfig: {apiVersion: client.authentication.k8s.io/v1, command: /plugin, provideClusterInfo: true}
  - name: secretreader-of-keyferry
    execConfig: {apiVersion: client.authentication.k8s.io/v1, command: /plugins/plugin, provideClusterInfo: true}
ambientIdentity: {namespaces: [%[1]s]}
`

const pluginVolume = `
broker:
  extraVolumes: [{name: plugins, image: {reference: "%s"}}]
  extraVolumeMounts: [{name: plugins, mountPath: /plugins, readOnly: true}]
`

// kubectl is the one on the PATH or, where there is none, the one that the clusters were built
// with.
func kubectl() (string, error) {
	if path, err := exec.LookPath("kubectl"); err == nil {
		return path, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	built, err := filepath.Glob(filepath.Join(cache, "keyferry", "*", "kubectl"))
	if err != nil || len(built) == 0 {
		return "", errors.New("kubectl is neither on the PATH nor in the cache: `make envtest` provides it")
	}
	return built[len(built)-1], nil
}

// keyferry runs the command-line tool on the management cluster and returns what it prints.
func (e environment) keyferry(t *testing.T, wantCode int, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), e.program, append(args, "--kubeconfig", e.management.kubeconfig)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != wantCode {
		t.Errorf("keyferry %s: exit code %d, want %d\n%s", strings.Join(args, " "), code, wantCode, out)
	}
	return string(out)
}
