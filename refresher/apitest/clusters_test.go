package apitest

import (
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
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/refresher"
	"github.com/keyferry/keyferry/refresher/clusters"
	"github.com/keyferry/keyferry/refresher/proxy"
)

// TestKubeconfig: client-go loads the kubeconfig, and each of its contexts is another ServiceAccount of the API server. One whose source fails
// takes nothing from the others.
func TestKubeconfig(t *testing.T) {
	issued := map[string]proxy.Target{
		wire.TargetClusterPath("fleet", "one"): account(t, "several", "one"),
		wire.TargetClusterPath("fleet", "two"): account(t, "several", "two"),
	}
	broker := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target, ok := issued[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte(`{"message":"its source is down"}`))
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
			t.Error(err)
		}
	}))
	defer broker.Close()

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
	config := clusters.Config{
		First: refresher.Config{
			Broker: broker.URL, Target: "fleet/one", Namespace: "one",
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
		Further:    []clusters.Cluster{{Target: "fleet/two", ProxyAddress: free(), Namespace: "2"}, {Target: "fleet/down", ProxyAddress: free()}},
		Kubeconfig: filepath.Join(dir, "kubeconfig"),
	}
	all, err := clusters.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- all.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	if err := refresher.Wait(ctx, config.First.CredentialsDir, config.First.TerminationLog); err != nil {
		t.Fatal(err)
	}

	loaded, err := clientcmd.LoadFromFile(config.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if err := clientcmd.Validate(*loaded); err != nil || loaded.CurrentContext != "fleet/one" || len(loaded.Contexts) != 3 {
		t.Errorf("error %v, current context %q, contexts %v", err, loaded.CurrentContext, loaded.Contexts)
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: config.Kubeconfig}
	for name, want := range map[string]struct{ user, namespace string }{
		"":          {"system:serviceaccount:several:one", "one"},
		"fleet/one": {"system:serviceaccount:several:one", "one"},
		"fleet/two": {"system:serviceaccount:several:two", "2"},
	} {
		chosen := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: name})
		config, err := chosen.ClientConfig()
		if err != nil {
			t.Fatal(err)
		}
		namespace, _, err := chosen.Namespace()
		if got := whoami(t, kubernetes.NewForConfigOrDie(config)); got != want.user || namespace != want.namespace || err != nil {
			t.Errorf("in context %q the client is %s in namespace %s (error %v), want %v", name, got, namespace, err, want)
		}
	}
	down, err := clientcmd.NewNonInteractiveClientConfig(*loaded, "fleet/down", nil, rules).ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancelAsking := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancelAsking()
	_, err = kubernetes.NewForConfigOrDie(down).CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "there is no credential for TargetCluster fleet/down: the broker answers 502 Bad Gateway: its source is down") {
		t.Errorf("the client for a cluster that fails says: %v", err)
	}
	for name, user := range loaded.AuthInfos {
		if user.Token != "" || len(user.ClientCertificateData)+len(user.ClientKeyData) > 0 {
			t.Errorf("there is a credential for %s in the kubeconfig itself", name)
		}
	}
}
