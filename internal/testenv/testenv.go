// Package testenv runs a real kube-apiserver and etcd for integration tests.
package testenv

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/keyferry/keyferry/internal/moduleroot"
)

// KubernetesVersion is the version of the API server for integration tests, unless the environment
// variable KUBERNETES_VERSION is set. Scripts read it from this line.
const KubernetesVersion = "v1.36.3"

// MaxTokenLife is the longest lifetime of a ServiceAccount token that the API server grants. Some
// clouds have such a limit, too.
const MaxTokenLife = 2 * time.Hour

// startTimeout is long enough for busy machines.
const startTimeout = 2 * time.Minute

// Run starts an API server with Keyferry's CRDs, calls setUp with its configuration, runs m, which
// is a *testing.M, and stops the server. It returns the exit code for TestMain, which is 1 if the
// server does not start.
//
// The API server accepts client certificates of the CAs clientCAs (PEM). The binaries are in
// $KUBEBUILDER_ASSETS or, if that is not set, in the directory of `make envtest`.
//
// If the tests leak goroutines of this module or open files, the exit code is 1, too.
func Run(m interface{ Run() int }, setUp func(*rest.Config), clientCAs ...[]byte) int {
	if onlyListed() {
		return m.Run()
	}
	before := openFiles()
	code := run(m, setUp, clientCAs...)
	if code != 0 {
		return code
	}
	if left := leftovers(before); left != "" {
		fmt.Fprintf(os.Stderr, "the tests have passed, and left this behind:\n%s\n", left)
		return 1
	}
	return code
}

// onlyListed reports whether no tests run that need an API server, because tests are only listed or
// a fuzz test runs.
func onlyListed() bool {
	flag.Parse()
	for _, name := range []string{"test.list", "test.fuzz"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return true
		}
	}
	return false
}

// OnlyBenchmarks reports whether only benchmarks run (-run '^$'). Benchmarks that need no API
// server run without one, which would take CPU time.
func OnlyBenchmarks() bool {
	flag.Parse()
	return flag.Lookup("test.run").Value.String() == "^$" && flag.Lookup("test.bench").Value.String() != ""
}

func run(m interface{ Run() int }, setUp func(*rest.Config), clientCAs ...[]byte) int {
	log.SetLogger(logr.Discard()) // the logger of controller-runtime, which complains if none was set
	cfg, stop, err := Start(clientCAs...)
	if err != nil {
		fmt.Fprintf(os.Stderr, "starting the API server for integration tests (`make envtest` provides it): %v\n", err)
		return 1
	}
	defer stop()
	setUp(cfg)
	return m.Run()
}

// Start starts another such API server, for tests that need two. stop stops it.
func Start(clientCAs ...[]byte) (cfg *rest.Config, stop func(), err error) {
	env := &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join(moduleroot.Dir(), "config", "crd")},
		ErrorIfCRDPathMissing: true,
		BinaryAssetsDirectory: Assets(),

		ControlPlaneStartTimeout: startTimeout,
	}
	env.ControlPlane.GetAPIServer().Configure().
		Set("service-account-max-token-expiration", MaxTokenLife.String()).
		Set("external-hostname", "127.0.0.1") // the host of its token issuer's keys
	if cfg, err = env.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() {
		if err := env.Stop(); err != nil {
			fmt.Fprintf(os.Stderr, "stopping the API server: %v\n", err)
		}
	}
	if err := trust(env.ControlPlane.GetAPIServer().CertDir, clientCAs); err != nil {
		stop()
		return nil, nil, fmt.Errorf("having it trust client certificates: %w", err)
	}
	return cfg, stop, nil
}

// Target starts another API server, without Keyferry's CRDs, until t ends. authentication is its
// AuthenticationConfiguration in YAML; empty means none.
func Target(t *testing.T, authentication string) *rest.Config {
	t.Helper()
	env := &envtest.Environment{BinaryAssetsDirectory: Assets(), ControlPlaneStartTimeout: startTimeout}
	if authentication != "" {
		file := filepath.Join(t.TempDir(), "authentication.yaml")
		if err := os.WriteFile(file, []byte(authentication), 0o600); err != nil {
			t.Fatal(err)
		}
		env.ControlPlane.GetAPIServer().Configure().Set("authentication-config", file)
	}
	cfg, err := env.Start()
	if err != nil {
		t.Fatalf("starting the target's API server: %v", err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stopping the target's API server: %v", err)
		}
	})
	return cfg
}

// trust adds CAs to the API server's file of client CAs. The API server re-reads the file.
func trust(dir string, clientCAs [][]byte) error {
	file, err := os.OpenFile(filepath.Join(dir, "client-cert-auth-ca.crt"), os.O_APPEND|os.O_WRONLY, 0) // #nosec G304 -- of envtest
	if err != nil {
		return err
	}
	_, err = file.Write(bytes.Join(clientCAs, nil))
	return errors.Join(err, file.Close())
}

// Assets returns the directory of kube-apiserver, etcd and kubectl.
func Assets() string {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "keyferry", "envtest-"+cmp.Or(os.Getenv("KUBERNETES_VERSION"), KubernetesVersion))
}
