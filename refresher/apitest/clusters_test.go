package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/refresher"
	"github.com/keyferry/keyferry/refresher/clusters"
	"github.com/keyferry/keyferry/refresher/proxy"
)

// sidecar is a refresher for three clusters: fleet/one and fleet/two are two API servers, and the
// provider of fleet/down is down.
type sidecar struct {
	t          *testing.T
	kubeconfig string

	mu     sync.Mutex
	issued map[string]proxy.Target
}

func newSidecar(t *testing.T) *sidecar {
	t.Helper()
	other, stop, err := testenv.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	s := &sidecar{t: t, issued: map[string]proxy.Target{
		wire.TargetClusterPath("fleet", "one"): account(t, "several", "one"),
		wire.TargetClusterPath("fleet", "two"): accountOf(t, other, "several", "two"),
	}}
	s.run()
	return s
}

// run runs the sidecar until the test ends.
func (s *sidecar) run() {
	t := s.t
	t.Helper()
	broker := httptest.NewTLSServer(http.HandlerFunc(s.issue))
	t.Cleanup(broker.Close)
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: broker.Certificate().Raw})
	for name, content := range map[string][]byte{"token": []byte("identity"), "ca.crt": ca} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ports := map[string]net.Listener{}
	free := func() string {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[listener.Addr().String()] = listener
		return listener.Addr().String()
	}
	s.kubeconfig = filepath.Join(dir, "kubeconfig")
	config := clusters.Config{
		First: refresher.Config{
			Broker: broker.URL, Target: "fleet/one", Namespace: "several",
			Delivery: refresher.Proxy, ProxyAddress: free(), ProxyDir: dir, OnEndpointChange: refresher.Ignore,
			CredentialsDir: filepath.Join(dir, "serviceaccount"), IdentityDir: dir, TerminationLog: filepath.Join(dir, "log"),
			Log: slog.New(slog.DiscardHandler), Jitter: func() float64 { return 0.5 },
			Listen: func(_ context.Context, _, address string) (net.Listener, error) {
				if listener := ports[address]; listener != nil {
					return listener, nil
				}
				return nil, errors.New("not here")
			},
		},
		Further:    []clusters.Cluster{{Target: "fleet/two", ProxyAddress: free(), Namespace: "several"}, {Target: "fleet/down", ProxyAddress: free()}},
		Kubeconfig: s.kubeconfig,
	}
	all, err := clusters.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- all.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if err := refresher.Wait(ctx, config.First.CredentialsDir, config.First.TerminationLog); err != nil {
		t.Fatal(err)
	}
}

// issue is the handler of the broker.
func (s *sidecar) issue(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	target, ok := s.issued[r.URL.Path]
	s.mu.Unlock()
	if !ok {
		w.WriteHeader(http.StatusBadGateway)
		_, _ = w.Write([]byte(`{"message":"its provider is down"}`))
		return
	}
	now := time.Now()
	err := json.NewEncoder(w).Encode(wire.ExecCredential{
		APIVersion: wire.APIVersion, Kind: wire.Kind,
		Spec: wire.Spec{Cluster: wire.Cluster{
			Server: target.Server.String(), CertificateAuthorityData: target.CA,
			Config: wire.Config{Namespace: "several", IssuedAt: now, RefreshAt: now.Add(time.Minute), Delivery: wire.DeliveryDirect},
		}},
		Status: wire.Status{Token: target.Token, ExpirationTimestamp: now.Add(10 * time.Minute)},
	})
	if err != nil {
		s.t.Error(err)
	}
}

const noCredential = "there is no credential for TargetCluster fleet/down: the broker answers 502 Bad Gateway: its provider is down"

// TestKubeconfig checks that clients with the kubeconfig can use each cluster by its context, and
// at once get the reason if there is no credential.
func TestKubeconfig(t *testing.T) {
	s := newSidecar(t)
	t.Run("client-go", s.clientGo)
	t.Run("kubectl", s.kubectl)
	t.Run("clusters of a controller", s.controller) // the provider of fleet/down comes back
}

func (s *sidecar) clientGo(t *testing.T) {
	loaded, err := clientcmd.LoadFromFile(s.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if err := clientcmd.Validate(*loaded); err != nil || loaded.CurrentContext != "fleet/one" || len(loaded.Contexts) != 3 {
		t.Errorf("error %v, current context %q, contexts %v", err, loaded.CurrentContext, loaded.Contexts)
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: s.kubeconfig}
	for name, want := range map[string]string{"": "one", "fleet/one": "one", "fleet/two": "two"} {
		chosen := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: name})
		config, err := chosen.ClientConfig()
		if err != nil {
			t.Fatal(err)
		}
		namespace, _, err := chosen.Namespace()
		if got := whoami(t, kubernetes.NewForConfigOrDie(config)); got != "system:serviceaccount:several:"+want || namespace != "several" || err != nil {
			t.Errorf("in context %q the client is %s in namespace %s (error %v), want %s", name, got, namespace, err, want)
		}
	}
	down, err := clientcmd.NewNonInteractiveClientConfig(*loaded, "fleet/down", nil, rules).ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err = kubernetes.NewForConfigOrDie(down).CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), noCredential) {
		t.Errorf("the client for a cluster that fails says: %v", err)
	}
	for name, user := range loaded.AuthInfos {
		if user.Token != "" || len(user.ClientCertificateData)+len(user.ClientKeyData) > 0 {
			t.Errorf("there is a credential for %s in the kubeconfig itself", name)
		}
	}
}

// kubectl runs the real kubectl.
func (s *sidecar) kubectl(t *testing.T) {
	run := func(stdin string, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		command := testenv.Kubectl(t, serverConfig, "", append(args, "--kubeconfig="+s.kubeconfig, "--cache-dir="+t.TempDir())...)
		command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &out, &errs
		_ = command.Run() // stderr tells
		return out.String(), errs.String()
	}
	const object = "{apiVersion: v1, kind: ConfigMap, metadata: {name: by-kubectl}, data: {a: b}}"
	for _, name := range []string{"fleet/one", "fleet/two"} {
		if out, errs := run(object, "--context="+name, "apply", "-f", "-"); out != "configmap/by-kubectl created\n" {
			t.Errorf("kubectl apply in %s: %s %s", name, out, errs)
		}
		want := "system:serviceaccount:several:" + strings.TrimPrefix(name, "fleet/")
		if out, errs := run("", "--context="+name, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"); out != want {
			t.Errorf("kubectl auth whoami in %s: %s %s", name, out, errs)
		}
	}
	if out, errs := run("", "get", "configmap", "by-kubectl", "-o", "jsonpath={.data.a}"); out != "b" {
		t.Errorf("kubectl get in the current context: %s %s", out, errs)
	}
	if out, errs := run("", "--context=fleet/down", "auth", "whoami"); !strings.Contains(errs, noCredential) {
		t.Errorf("kubectl auth whoami where there is no credential: %s %s", out, errs)
	}
	// Of its discovery, kubectl only shows the code.
	if out, errs := run("", "--context=fleet/down", "get", "configmaps"); !strings.Contains(errs, "Error from server (ServiceUnavailable)") {
		t.Errorf("kubectl get where there is no credential: %s %s", out, errs)
	}
}

// controller uses the kubeconfig like the kubeconfig file provider of multicluster-runtime: with a
// Cluster of controller-runtime for each context, with its own cache and client. A cluster without
// a credential exists from the start, and works once it has one.
func (s *sidecar) controller(t *testing.T) {
	loaded, err := clientcmd.LoadFromFile(s.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	all := map[string]cluster.Cluster{}
	for name := range loaded.Contexts {
		config, err := clientcmd.NewNonInteractiveClientConfig(*loaded, name, &clientcmd.ConfigOverrides{}, nil).ClientConfig()
		if err != nil {
			t.Fatal(err)
		}
		c, err := cluster.New(config, func(o *cluster.Options) {
			o.Logger = logr.Discard()
			o.Cache.DefaultNamespaces = map[string]cache.Config{"several": {}} // these accounts may see no more
		})
		if err != nil {
			t.Fatalf("making the cluster of context %s: %v", name, err)
		}
		all[name] = c
		running.Go(func() {
			if err := c.Start(ctx); err != nil {
				t.Errorf("the cluster of context %s: %v", name, err)
			}
		})
	}
	for _, name := range []string{"fleet/one", "fleet/two"} {
		seesWhatItWrites(t, all[name], "by-controller-in-"+strings.TrimPrefix(name, "fleet/"))
	}

	back := account(t, "several", "back")
	s.mu.Lock()
	s.issued[wire.TargetClusterPath("fleet", "down")] = back
	s.mu.Unlock()
	seesWhatItWrites(t, all["fleet/down"], "by-controller-in-down")
}

// seesWhatItWrites creates an object, and waits until a watch of the cluster returns it. There may
// be no credential yet.
func seesWhatItWrites(t *testing.T, c cluster.Cluster, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "several", Name: name}}
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	until := func(what string, try func() error) {
		t.Helper()
		for err := try(); err != nil; err = try() {
			select {
			case <-ctx.Done():
				t.Fatalf("%s %s: %v", what, name, err)
			case <-retry.C:
			}
		}
	}
	until("creating", func() error { return client.IgnoreAlreadyExists(c.GetClient().Create(ctx, object.DeepCopy())) })
	until("finding", func() error { return c.GetCache().Get(ctx, client.ObjectKeyFromObject(object), &corev1.ConfigMap{}) })
}
