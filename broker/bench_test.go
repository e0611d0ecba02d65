package broker

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/logging"
	"github.com/keyferry/keyferry/issuer"
)

// crowd is a number of Pods with some identities, and the API server that authenticates them, which
// is also the target. The broker is the real one, with its caches and its audit.
type crowd struct {
	client.Reader // of what the issuer reads

	handler    http.Handler
	api        *httptest.Server
	identities int
	issued     atomic.Int64
}

func newCrowd(b testing.TB, identities int) *crowd {
	b.Helper()
	c := &crowd{identities: identities}
	c.api = httptest.NewTLSServer(http.HandlerFunc(c.serveAPI))
	b.Cleanup(c.api.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.api.Certificate().Raw})
	tokens, access, err := Delegate(&rest.Config{Host: c.api.URL, TLSClientConfig: rest.TLSClientConfig{CAData: ca}, QPS: -1}, DefaultReviewTTLs())
	must(b, err)
	nowhere, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	must(b, err)
	b.Cleanup(func() { nowhere.Close() })
	issue, err := issuer.New(issuer.Config{Clusters: c, Secrets: c, ClusterID: "management", Policy: endpoint.Policy{AllowLocal: true}})
	must(b, err)
	c.handler, err = New(Config{
		Authenticator: tokens, Authorizer: access, FindLock: unlocked, Issuer: issue, Audit: logging.New(nowhere, 0), Log: logr.Discard(), Metrics: prometheus.NewRegistry(),
	})
	must(b, err)
	return c
}

// Get returns the TargetCluster, with a ServiceAccount in the target for each identity, and its
// Secret.
func (c *crowd) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	object := metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: "1", ResourceVersion: "1", Generation: 1}
	switch into := into.(type) {
	case *v1alpha1.TargetCluster:
		into.ObjectMeta = object
		into.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "access"}}
		into.Spec.Issue = v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
			ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountMirror},
		}}
	case *corev1.Secret:
		config := clientcmdapi.NewConfig()
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.api.Certificate().Raw})
		config.Clusters["x"] = &clientcmdapi.Cluster{Server: c.api.URL, CertificateAuthorityData: ca}
		config.AuthInfos["x"] = &clientcmdapi.AuthInfo{Token: "administrator"}
		config.Contexts["x"] = &clientcmdapi.Context{Cluster: "x", AuthInfo: "x"}
		config.CurrentContext = "x"
		text, err := clientcmd.Write(*config)
		into.ObjectMeta, into.Data = object, map[string][]byte{"value": text, "kubeconfig": text}
		return err
	default:
		return errors.New("nothing else is there")
	}
	return nil
}

// podToken returns the token of Pod i. It is as long as a real one.
func (c *crowd) podToken(i int) string {
	return tokenWith(fmt.Sprintf(`{"aud":["keyferry"],"sub":"%d","padding":"%0600d"}`, i, i))
}

func (c *crowd) serveAPI(w http.ResponseWriter, r *http.Request) {
	answer := func(object any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(object)
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/tokenreviews"):
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		number, err := numberOf(review.Spec.Token)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		pod := podUser("account-"+strconv.Itoa(number%c.identities), "pod-"+strconv.Itoa(number))
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: review.Spec.Audiences}
		review.Status.User = authenticationv1.UserInfo{Username: pod.Name, UID: pod.UID, Groups: pod.Groups, Extra: map[string]authenticationv1.ExtraValue{}}
		for key, value := range pod.Extra {
			review.Status.User.Extra[key] = value
		}
		review.APIVersion, review.Kind = "authentication.k8s.io/v1", "TokenReview"
		answer(review)
	case strings.HasSuffix(r.URL.Path, "/subjectaccessreviews"):
		answer(authorizationv1.SubjectAccessReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SubjectAccessReview"}, Status: authorizationv1.SubjectAccessReviewStatus{Allowed: true},
		})
	case strings.HasSuffix(r.URL.Path, "/token"):
		answer(authenticationv1.TokenRequest{
			TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
			Status: authenticationv1.TokenRequestStatus{
				Token: fmt.Sprintf("%s%0900d", planted, c.issued.Add(1)), ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour)),
			},
		})
	default:
		http.NotFound(w, r)
	}
}

// numberOf returns the number of the Pod that a token belongs to.
func numberOf(token string) (int, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0, errors.New("no token")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0, err
	}
	var claims struct{ Sub string }
	if err := json.Unmarshal(text, &claims); err != nil {
		return 0, err
	}
	return strconv.Atoi(claims.Sub)
}

// ask sends a request of Pod i and returns the response.
func (c *crowd) ask(b testing.TB, i int) *httptest.ResponseRecorder {
	r := from("10.0.0.1:1", c.podToken(i))
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		b.Errorf("Pod %d: code %d: %s", i, w.Code, w.Body)
	}
	return w
}

// start starts Pods, with as many concurrent requests as the broker serves.
func (c *crowd) start(b testing.TB, pods int) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := int(next.Add(1)); i <= pods; i = int(next.Add(1)) {
				c.ask(b, i)
			}
		})
	}
	all.Wait()
}

// TestStartOfAll checks that the provider is called once for each identity, however many Pods start
// at once.
func TestStartOfAll(t *testing.T) {
	c := newCrowd(t, 5)
	c.start(t, 200)
	if got := c.issued.Load(); got != 5 {
		t.Errorf("the provider was asked %d times for 200 Pods of 5 identities", got)
	}
}

// BenchmarkStart measures the start of a whole cluster: the broker reviews the token of each Pod,
// and gets its credential from the provider or from the cache.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		c := newCrowd(b, 50)
		c.start(b, 10_000)
		b.ReportMetric(float64(c.issued.Load()), "issues")
	}
}

// BenchmarkMemory measures the broker's memory for Pods with an identity each. The broker limits
// its requests to a provider, so the number of Pods is smaller than in the documented figure.
func BenchmarkMemory(b *testing.B) {
	const identities = 1000
	for b.Loop() {
		c := newCrowd(b, identities)
		c.ask(b, 0)
		before := heap()
		c.start(b, identities-1)
		b.ReportMetric(float64(heap()-before)/(1<<20)*10_000/identities, "heap-MiB")
		runtime.KeepAlive(c)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// BenchmarkServer compares the broker, which issues from its cache, with a plain TLS server that
// sends the same bytes: over one connection, and over a new connection for each request, as
// refreshers use.
func BenchmarkServer(b *testing.B) {
	const pods = 2000
	c := newCrowd(b, 50)
	c.start(b, pods)
	first := c.ask(b, 1)
	body, tag := first.Body.Bytes(), first.Header().Get("ETag")
	bare := func(code int, body []byte) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("ETag", tag)
			w.WriteHeader(code)
			_, _ = w.Write(body)
		})
	}
	for _, s := range []struct {
		name    string
		handler http.Handler
		code    int
		tags    bool
	}{
		{"bare200", bare(http.StatusOK, body), http.StatusOK, false}, {"issued", c.handler, http.StatusOK, false},
		{"bare304", bare(http.StatusNotModified, nil), http.StatusNotModified, true}, {"unchanged", c.handler, http.StatusNotModified, true},
	} {
		requests := make([][]byte, pods)
		for i := range requests {
			header := "Authorization: Bearer " + c.podToken(i+1) + "\r\n"
			if s.tags {
				header += "If-None-Match: " + c.ask(b, i+1).Header().Get("ETag") + "\r\n"
			}
			requests[i] = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: broker\r\n%sContent-Length: 2\r\n\r\n{}", wire.TargetClusterPath(target.Namespace, target.Name), header)
		}
		for _, kept := range []bool{true, false} {
			b.Run(map[bool]string{true: "kept/", false: "new/"}[kept]+s.name, func(b *testing.B) {
				address, config := serveTCP(b, s.handler)
				var connection *tls.Conn
				for i := 0; b.Loop(); i++ {
					if connection == nil {
						var err error
						connection, err = tls.Dial("tcp", address, config)
						must(b, err)
					}
					roundTrip(b, connection, requests[i%pods], s.code)
					if !kept {
						must(b, connection.Close())
						connection = nil
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
			})
		}
	}
}

// serveTCP serves over TLS like the broker, and returns how clients connect.
func serveTCP(b *testing.B, handler http.Handler) (string, *tls.Config) {
	donor := httptest.NewTLSServer(nil)
	b.Cleanup(donor.Close)
	listener, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	must(b, err)
	server, err := NewServer(ServerConfig{
		Listener: listener, Handler: handler, MaxConnections: 8, Log: logr.Discard(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &donor.TLS.Certificates[0], nil },
	})
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	b.Cleanup(func() { cancel(); must(b, <-ended) })
	roots := x509.NewCertPool()
	roots.AddCert(donor.Certificate())
	return listener.Addr().String(), &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// roundTrip sends a request with as little work for the client as possible.
func roundTrip(b *testing.B, connection *tls.Conn, request []byte, code int) {
	_, err := connection.Write(request)
	must(b, err)
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	must(b, err)
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	must(b, err)
	if response.StatusCode != code {
		b.Fatalf("code %d, want %d", response.StatusCode, code)
	}
}
