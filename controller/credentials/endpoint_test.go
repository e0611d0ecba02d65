package credentials

import (
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
)

// frontPath is a path that fronts have the API server at, besides the usual one.
const frontPath = "/k8s/clusters/c1"

// Defect 9: an address without a port or a scheme, with a path, or of IPv6 is taken apart wrongly.
func TestDefect09EndpointsAreTakenApart(t *testing.T) {
	front, port6 := newFront(t) // its certificate is the other front's, too
	for server, want := range map[string]struct{ host, port, obstacle string }{
		"https://api.example.com:6443":               {"api.example.com", "6443", ""},
		"https://api.example.com":                    {"api.example.com", "443", ""},
		"api.example.com:6443":                       {"api.example.com", "6443", ""},
		"api.example.com":                            {"api.example.com", "443", ""},
		"https://api.example.com:6443/":              {"api.example.com", "6443", ""},
		"https://[::1]:" + port6:                     {"::1", port6, ""},
		"[::1]:" + port6:                             {"::1", port6, ""},
		"https://rancher.example.com" + frontPath:    {"", "", "do not support the path " + frontPath},
		"rancher.example.com:8443" + frontPath + "/": {"", "", "do not support the path " + frontPath},
	} {
		t.Run(server, func(t *testing.T) {
			if want.port == "" && want.obstacle == "" {
				t.Skip("this machine has no IPv6")
			}
			w := newWorld(t, v1alpha1.CredentialTokenFile)
			w.leadTo(server, front)
			if want.obstacle != "" {
				w.look()
				if message := w.condition(v1alpha1.ConditionIssued, metav1.ConditionFalse, v1alpha1.ReasonNotExpressible); !strings.Contains(message, want.obstacle) {
					t.Errorf("message %q", message)
				}
				w.change(func(s *v1alpha1.CredentialRequestSpec) { s.Type = v1alpha1.CredentialKubeconfig })
				w.ready()
				cfg, err := clientcmd.RESTConfigFromKubeConfig(w.secret(w.request).Data["kubeconfig"])
				if err != nil {
					t.Fatal(err)
				}
				w.isRobot(cfg)
				return
			}
			w.ready()
			data := w.secret(w.request).Data
			host, port := string(data[injector.TokenFileHost]), string(data[injector.TokenFilePort])
			if host != want.host || port != want.port {
				t.Errorf("host %q, port %q", host, port)
			}
			w.isRobot(&rest.Config{ // as in-cluster clients do
				Host:            "https://" + net.JoinHostPort(host, port),
				BearerToken:     string(data[injector.TokenFileToken]),
				TLSClientConfig: rest.TLSClientConfig{CAData: data[injector.TokenFileCertificateAuthority]},
			})
		})
	}
}

// TestArgoCDServerIsSpelledByItsOwner: Argo CD compares the text of a cluster's server with those
// in Applications and AppProjects, so the Secret has it as the kubeconfig or the spec has it.
func TestArgoCDServerIsSpelledByItsOwner(t *testing.T) {
	front, _ := newFront(t)
	const eks = "https://0123456789ABCDEF0123456789ABCDEF.example.com" // the host of an EKS cluster has capitals
	server := func(w *world) string { return string(w.secret(w.request).Data["server"]) }
	for _, spelled := range []string{eks, "https://api.example.com", "https://api.example.com:443", "https://Rancher.example.com" + frontPath + "/"} {
		t.Run(spelled, func(t *testing.T) {
			w := newWorld(t, v1alpha1.CredentialArgoCD)
			w.leadTo(spelled, front)
			w.ready()
			if got := server(w); got != spelled {
				t.Errorf("the Secret's server is %q", got)
			}
		})
	}
	t.Run("in the spec", func(t *testing.T) {
		w := newWorld(t, v1alpha1.CredentialArgoCD)
		w.leadTo("https://other.example.com", front)
		cluster := &v1alpha1.TargetCluster{}
		if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: w.fleet, Name: "tenant-1"}, cluster); err != nil {
			t.Fatal(err)
		}
		cluster.Spec.Endpoint = &v1alpha1.Endpoint{Server: eks}
		w.update(cluster)
		w.ready()
		if got := server(w); got != eks {
			t.Errorf("the Secret's server is %q", got)
		}
	})
}

// isRobot fails if a client with this configuration is not the target's ServiceAccount robot.
func (w *world) isRobot(cfg *rest.Config) {
	w.t.Helper()
	if user, want := whoAmI(w.t, cfg), "system:serviceaccount:"+w.target.namespace+":robot"; user != want {
		w.t.Errorf("the target takes it for %q, want %q", user, want)
	}
}

// leadTo has the kubeconfig of the TargetCluster lead to an address that a front answers at.
func (w *world) leadTo(server string, front *httptest.Server) {
	w.t.Helper()
	secret := &corev1.Secret{}
	if err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: w.fleet, Name: "tenant-1"}, secret); err != nil {
		w.t.Fatal(err)
	}
	kubeconfig, err := clientcmd.Write(api.Config{
		CurrentContext: "a",
		Contexts:       map[string]*api.Context{"a": {Cluster: "a", AuthInfo: "a"}},
		Clusters: map[string]*api.Cluster{"a": {
			Server:                   server,
			CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}),
		}},
		AuthInfos: map[string]*api.AuthInfo{"a": {Token: frontToken}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	secret.Data = map[string][]byte{"kubeconfig": kubeconfig}
	w.update(secret)
}

// frontToken is the administrator's at a front, which ends TLS, and so passes no client certificate
// on.
const frontToken = "administrator"

// frontOf is what stands before an API server, as load balancers and Rancher do.
func frontOf(cfg *rest.Config) http.Handler {
	target := &url.URL{Scheme: "https", Host: strings.Trim(strings.TrimPrefix(cfg.Host, "https://"), "/")}
	to := func(cfg *rest.Config) http.Handler {
		transport, err := rest.TransportFor(cfg)
		if err != nil {
			panic(err)
		}
		return &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Path = strings.TrimPrefix(r.Out.URL.Path, frontPath)
			r.SetURL(target)
		}}
	}
	asAdministrator, asItIs := to(cfg), to(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: cfg.CAData}})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+frontToken {
			r.Header.Del("Authorization")
			asAdministrator.ServeHTTP(w, r)
			return
		}
		asItIs.ServeHTTP(w, r)
	})
}

// newFront starts one at ::1, and returns its port; on a machine without IPv6 elsewhere, without a
// port.
func newFront(t *testing.T) (front *httptest.Server, port string) {
	t.Helper()
	front = httptest.NewUnstartedServer(frontOf(there))
	if listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "[::1]:0"); err == nil {
		_ = front.Listener.Close()
		front.Listener = listener
		_, port, _ = net.SplitHostPort(listener.Addr().String())
	}
	front.StartTLS()
	t.Cleanup(front.Close)
	return front, port
}

// tunnel is a proxy that leads every connection to one server, whatever was asked for: so any name
// and any port can be tried.
func tunnel(to func() *httptest.Server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		there, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", to().Listener.Addr().String())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer func() { _ = there.Close() }()
		w.WriteHeader(http.StatusOK)
		here, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer func() { _ = here.Close() }()
		go func() { _, _ = io.Copy(there, buffered) }()
		_, _ = io.Copy(here, there)
	})
}
