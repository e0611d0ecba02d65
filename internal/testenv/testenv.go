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

// KubernetesVersion is the version of the API server that integration tests run against, unless the
// environment variable KUBERNETES_VERSION has another one. Scripts read it from this line.
const KubernetesVersion = "v1.36.3"

// MaxTokenLife is the longest life of a service account token that the API server grants, as those
// of some clouds do.
const MaxTokenLife = 2 * time.Hour

// startTimeout is for machines that have much else to do.
const startTimeout = 2 * time.Minute

// Run starts an API server with Keyferry's CRDs, calls setUp with its configuration, runs m, which
// is a *testing.M, and stops the server. It returns the exit code for TestMain, 1 where the server
// cannot start.
//
// The API server lets in whoever has a client certificate of the authorities clientCAs, PEM. The
// binaries come from $KUBEBUILDER_ASSETS or, where that is not set, from where `make envtest` puts
// them.
//
// Goroutines of ours, or open files, that the tests leave behind make the exit code 1, too.
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

// onlyListed reports whether no test is to be run: they are listed, or something is fuzzed, which
// needs no API server.
func onlyListed() bool {
	flag.Parse()
	for _, name := range []string{"test.list", "test.fuzz"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return true
		}
	}
	return false
}

// OnlyBenchmarks reports whether nothing but benchmarks is to be run (-run '^$'). Those that need
// no API server are measured without one beside them, which takes its share of the machine.
func OnlyBenchmarks() bool {
	flag.Parse()
	return flag.Lookup("test.run").Value.String() == "^$" && flag.Lookup("test.bench").Value.String() != ""
}

func run(m interface{ Run() int }, setUp func(*rest.Config), clientCAs ...[]byte) int {
	log.SetLogger(logr.Discard()) // of controller-runtime, unless the tests have set one: it complains if there is none
	cfg, stop, err := Start(clientCAs...)
	if err != nil {
		fmt.Fprintf(os.Stderr, "starting the API server for integration tests (`make envtest` provides it): %v\n", err)
		return 1
	}
	defer stop()
	setUp(cfg)
	return m.Run()
}

// Start starts another API server of that kind, for tests that need two, and returns what stops it.
func Start(clientCAs ...[]byte) (cfg *rest.Config, stop func(), err error) {
	env := &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join(moduleroot.Dir(), "config", "crd")},
		ErrorIfCRDPathMissing: true,
		BinaryAssetsDirectory: Assets(),

		ControlPlaneStartTimeout: startTimeout,
	}
	env.ControlPlane.GetAPIServer().Configure().
		Set("service-account-max-token-expiration", MaxTokenLife.String()).
		Set("external-hostname", "127.0.0.1") // where others find the keys of its tokens
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

// Target starts another API server, without Keyferry's CRDs, for as long as t takes. authentication
// is its AuthenticationConfiguration, in YAML; empty is none.
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

// trust adds to the file of those whose client certificates count. The API server reads it again by
// itself.
func trust(dir string, clientCAs [][]byte) error {
	file, err := os.OpenFile(filepath.Join(dir, "client-cert-auth-ca.crt"), os.O_APPEND|os.O_WRONLY, 0) // #nosec G304 -- of envtest
	if err != nil {
		return err
	}
	_, err = file.Write(bytes.Join(clientCAs, nil))
	return errors.Join(err, file.Close())
}

// Assets is the folder of kube-apiserver, etcd and kubectl.
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
