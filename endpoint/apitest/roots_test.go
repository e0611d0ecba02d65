package apitest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/controller"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/endpoint/endpointtest"
	"github.com/keyferry/keyferry/issuer"
)

// publicCA is the only CA in the system roots of these tests.
var publicCA *authority

// setUpRoots creates publicCA and makes it the only system root. Call it before anything in this
// process uses the system roots.
func setUpRoots(dir string) (err error) {
	if publicCA, err = newAuthority(); err != nil {
		return err
	}
	file := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(file, publicCA.pem, 0o600); err != nil {
		return err
	}
	return errors.Join(os.Setenv("SSL_CERT_FILE", file), os.Setenv("SSL_CERT_DIR", filepath.Join(dir, "none")))
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, err
}

// target starts a minimal API server with a certificate of the CA, and counts its requests.
func (a *authority) target(t *testing.T) (url string, requests *atomic.Int32) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, a.key.Public(), a.key)
	must(t, err)
	requests = new(atomic.Int32)
	mux := http.NewServeMux()
	answer := func(pattern, body string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
		})
	}
	answer("GET /version", `{"gitVersion":"v1.36.0"}`)
	answer("GET /api/v1/namespaces/kube-system", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"kube-system","uid":"uid"}}`)
	answer("POST /api/v1/namespaces/robots/serviceaccounts/robot/token",
		`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","status":{"token":"requested","expirationTimestamp":"2999-01-01T00:00:00Z"}}`)
	server := httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: a.key}}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are meant to
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, requests
}

// TestSystemRoots checks that a target with a certificate of a system CA is verified with it, and
// that Pods receive the CA.
func TestSystemRoots(t *testing.T) {
	cfg := world.issuing
	cfg.Policy.AllowLocal, cfg.Decorate = true, nil
	c, b, err := issuing(cfg, func(i *issuer.Issuer) controller.Resolver { return i })
	must(t, err)
	server, _ := publicCA.target(t)
	at := endpoint.Endpoint{Server: server}
	selected := inSpec(endpoint.Endpoint{SystemRoots: true})
	for name, prepare := range map[string]func(*testing.T, *v1alpha1.TargetCluster){
		"kubeconfig-without-a-ca": func(t *testing.T, tc *v1alpha1.TargetCluster) {
			tc.Spec.Endpoint = selected
			inKubeconfig(t, tc)(at)
		},
		"kubeconfig-with-another-ca": func(t *testing.T, tc *v1alpha1.TargetCluster) {
			tc.Spec.Endpoint = selected
			inKubeconfig(t, tc)(endpoint.Endpoint{Server: server, CertificateAuthority: []byte(endpointtest.CertificateAuthority)})
		},
		"requested-token": func(t *testing.T, tc *v1alpha1.TargetCluster) {
			tc.Spec.Endpoint = selected
			tc.Spec.Issue = v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "robots", Name: "robot"},
			}}
			inKubeconfig(t, tc)(at)
		},
		"all-in-the-spec": func(_ *testing.T, tc *v1alpha1.TargetCluster) {
			tc.Spec.Endpoint = inSpec(endpoint.Endpoint{Server: server, SystemRoots: true})
			tc.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessExec, Exec: &v1alpha1.ExecAccess{Provider: "pods", RunIn: v1alpha1.RunInPod}}
		},
		"profile-without-a-ca": func(t *testing.T, tc *v1alpha1.TargetCluster) { inProfile(t, tc)(at) },
		"profile-with-another-ca": func(t *testing.T, tc *v1alpha1.TargetCluster) {
			tc.Spec.Endpoint = selected
			inProfile(t, tc)(endpoint.Endpoint{Server: server, CertificateAuthority: []byte(endpointtest.CertificateAuthority)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc := targetCluster(namespace, "roots-"+name)
			prepare(t, tc)
			must(t, world.client.Create(t.Context(), tc))
			checkReachable(t, c, client.ObjectKeyFromObject(tc), metav1.ConditionTrue, "Answers")
			checkReceived(t, issued(t, b, wire.TargetClusterPath(tc.Namespace, tc.Name)), server)
		})
	}
	t.Run("profile by itself", func(t *testing.T) {
		profile := clusterProfile(namespace, "roots", "pods", at)
		status := profile.Status
		must(t, world.client.Create(t.Context(), profile))
		profile.Status = status
		must(t, world.client.Status().Update(t.Context(), profile))
		checkReceived(t, issued(t, b, wire.ClusterProfilePath(profile.Namespace, profile.Name)), server)
	})
	t.Run("another CA", func(t *testing.T) {
		other, err := newAuthority()
		must(t, err)
		server, requests := other.target(t)
		tc := targetCluster(namespace, "roots-of-others")
		tc.Spec.Endpoint = selected
		inKubeconfig(t, tc)(endpoint.Endpoint{Server: server})
		must(t, world.client.Create(t.Context(), tc))
		checkReachable(t, c, client.ObjectKeyFromObject(tc), metav1.ConditionFalse, controller.ReasonTLSFailed)
		if n := requests.Load(); n > 0 {
			t.Errorf("a server that is not verified has %d requests", n)
		}
	})
}

// TestSystemRootsOfAnotherVersion: after an upgrade, a Pod receives the CA certificates of the new
// version with its next request, although nothing else has changed.
func TestSystemRootsOfAnotherVersion(t *testing.T) {
	tc := targetCluster(namespace, "roots-upgraded")
	tc.Spec.Endpoint = inSpec(endpoint.Endpoint{SystemRoots: true})
	inKubeconfig(t, tc)(endpoint.Endpoint{Server: "https://203.0.113.7:6443"})
	must(t, world.client.Create(t.Context(), tc))
	path := wire.TargetClusterPath(tc.Namespace, tc.Name)
	added, err := newAuthority()
	must(t, err)
	tag := ""
	for version, roots := range [][]byte{publicCA.pem, added.pem, slices.Concat(publicCA.pem, added.pem)} {
		cfg := world.issuing
		cfg.SystemRoots = func() ([]byte, error) { return roots, nil }
		_, b, err := issuing(cfg, func(i *issuer.Issuer) controller.Resolver { return i })
		must(t, err)
		w := askWith(t, b, path, tag)
		var received wire.ExecCredential
		must(t, json.Unmarshal(w.Body.Bytes(), &received))
		if !bytes.Equal(received.Spec.Cluster.CertificateAuthorityData, roots) {
			t.Errorf("version %d: the broker answers %d with other CA certificates: %s", version, w.Code, w.Body)
		}
		tag = w.Header().Get("ETag")
		if again := askWith(t, b, path, tag); again.Code != http.StatusNotModified {
			t.Errorf("version %d: the broker answers %d, want 304", version, again.Code)
		}
	}
}

func checkReachable(t *testing.T, c *controller.TargetClusters, name types.NamespacedName, status metav1.ConditionStatus, reason string) {
	t.Helper()
	_, err := c.Reconcile(t.Context(), reconcile.Request{NamespacedName: name})
	must(t, err)
	var tc v1alpha1.TargetCluster
	must(t, world.client.Get(t.Context(), name, &tc))
	got := meta.FindStatusCondition(tc.Status.Conditions, v1alpha1.ConditionReachable)
	if got == nil || got.Status != status || got.Reason != reason {
		t.Errorf("the conditions are %+v, want Reachable %s, %s", tc.Status.Conditions, status, reason)
	}
}

// checkReceived connects to a server with the endpoint and CA that a Pod receives.
func checkReceived(t *testing.T, received wire.ExecCredential, server string) {
	t.Helper()
	ca := received.Spec.Cluster.CertificateAuthorityData
	if !bytes.Equal(ca, publicCA.pem) {
		t.Errorf("Pods receive the CA %s, want %s", ca, publicCA.pem)
	}
	if !received.Spec.Cluster.Config.SystemRoots {
		t.Error("systemRoots is not set")
	}
	inCluster, err := discovery.NewDiscoveryClientForConfig(&rest.Config{
		Host: server, BearerToken: received.Status.Token, TLSClientConfig: rest.TLSClientConfig{CAData: ca},
	})
	must(t, err)
	if version, err := inCluster.ServerVersion(); err != nil || version.GitVersion != "v1.36.0" {
		t.Errorf("the server answers %v, %v", version, err)
	}
}
