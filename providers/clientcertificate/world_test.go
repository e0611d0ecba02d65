package clientcertificate_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	certmanager "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2" //nolint:depguard // the Kubernetes libraries log through it
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/clientcertificate"
)

// The API server plays both parts: this cluster, in which cert-manager runs, and the target, which
// trusts the authority that it signs with. TestMain sets all.
var (
	serverConfig *rest.Config
	server       *kubernetes.Clientset
	certs        *certmanager.CertmanagerV1Client
	realOne      *testenv.CertManager
	authority    pair
	logged       record
)

// record keeps what is logged.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) add(prefix, args string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text.WriteString(prefix + args)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func TestMain(m *testing.M) {
	logger := funcr.New(logged.add, funcr.Options{Verbosity: 10})
	log.SetLogger(logger)
	klog.SetLogger(logger)
	authority = newAuthority()
	os.Exit(testenv.Run(withCertManager{m}, func(cfg *rest.Config) {
		cfg.QPS, cfg.Burst = 500, 500
		serverConfig, server, certs = cfg, kubernetes.NewForConfigOrDie(cfg), certmanager.NewForConfigOrDie(cfg)
	}, authority.cert))
}

// withCertManager runs tests while cert-manager's controllers run, without its approver: to approve
// is for each test.
type withCertManager struct{ *testing.M }

func (m withCertManager) Run() int {
	dir, err := os.MkdirTemp("", "clientcertificate")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if realOne, err = testenv.NewCertManager(context.Background(), serverConfig, dir); err != nil {
		panic(err)
	}
	stop, err := realOne.Start(context.Background(), "-controllers=*,-certificaterequests-approver")
	if err != nil {
		panic(err)
	}
	code := m.M.Run()
	if err := stop(); err != nil {
		panic(err)
	}
	return code
}

// pair is PEM.
type pair struct{ cert, key []byte }

func newAuthority() pair {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "target's client authority"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		panic(err)
	}
	return pair{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}
}

// world is a namespace with an Issuer that signs with the authority, and an owner of requests.
type world struct {
	*testing.T
	namespace string
	owner     metav1.OwnerReference
	now       func() time.Time

	// api is that of the tested. watching, if set, is called when it watches; made counts what it
	// makes.
	api      *certmanager.CertmanagerV1Client
	watching func()
	made     atomic.Int32
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ns, err := server.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "fleet-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.CoreV1().Secrets(ns.Name).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "target-ca"},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{"tls.crt": authority.cert, "tls.key": authority.key},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	issuer := &cmapi.Issuer{ObjectMeta: metav1.ObjectMeta{Name: "target-ca"}}
	issuer.Spec.CA = &cmapi.CAIssuer{SecretName: "target-ca"}
	if _, err := certs.Issuers(ns.Name).Create(t.Context(), issuer, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w := &world{
		T:         t,
		namespace: ns.Name,
		owner:     newOwner(),
		now:       time.Now,
	}
	cfg := rest.CopyConfig(serverConfig)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Method == http.MethodPost {
				w.made.Add(1)
			}
			resp, err := next.RoundTrip(req)
			if req.URL.Query().Get("watch") == "true" && w.watching != nil {
				w.watching()
			}
			return resp, err
		})
	})
	w.api = certmanager.NewForConfigOrDie(cfg)
	return w
}

// newOwner need not be there: garbage is not collected here.
func newOwner() metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "keyferry.dev/v1alpha1", Kind: "TargetCluster", Name: "tenant-1", UID: uuid.NewUUID()}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// config asks the Issuer for what a Pod's ServiceAccount is.
func (w *world) config() clientcertificate.Config {
	return clientcertificate.Config{
		Requests:      clientcertificate.NewRequests(w.api, func() time.Time { return w.now() }),
		Namespace:     w.namespace,
		Owner:         w.owner,
		Endpoint:      endpoint.Endpoint{Server: "https://target.example:6443"},
		Issuer:        cmmeta.IssuerReference{Name: "target-ca", Kind: "Issuer", Group: "cert-manager.io"},
		CommonName:    "${namespace}:${serviceAccount}",
		Organizations: []string{"pods", "of:${namespace}"},
		Duration:      time.Hour,
	}
}

// external is config for an issuer that only the test is.
func (w *world) external() clientcertificate.Config {
	cfg := w.config()
	cfg.Issuer = cmmeta.IssuerReference{Name: "vault", Kind: "Vault", Group: "example.com"}
	return cfg
}

func provider(t *testing.T, cfg clientcertificate.Config) *clientcertificate.Provider {
	t.Helper()
	p, err := clientcertificate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var web = providers.Request{Identity: providers.Identity{
	Namespace: "app", ServiceAccount: "web", ServiceAccountUID: "sa-1", PodName: "web-0", PodUID: "2e9a3a63-2f8c-4b0a-9a53-0f9a3e1f5a10",
}}

// requests lists those that are there.
func (w *world) requests() []cmapi.CertificateRequest {
	w.Helper()
	list, err := certs.CertificateRequests(w.namespace).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return list.Items
}

func (w *world) only() cmapi.CertificateRequest {
	w.Helper()
	all := w.requests()
	if len(all) != 1 {
		w.Fatalf("there are %d requests, want 1: %v", len(all), all)
	}
	return all[0]
}

// each does something with each request when it is made, until the test ends.
func (w *world) each(do func(*cmapi.CertificateRequest)) {
	w.Helper()
	requests := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return certs.CertificateRequests(w.namespace).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return certs.CertificateRequests(w.namespace).Watch(ctx, o)
		},
	}
	informer := cache.NewSharedInformer(requests, &cmapi.CertificateRequest{}, 0)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(object any) {
		if r, ok := object.(*cmapi.CertificateRequest); ok {
			go do(r)
		}
	}}); err != nil {
		w.Fatal(err)
	}
	go informer.Run(w.Context().Done())
	if !cache.WaitForCacheSync(w.Context().Done(), informer.HasSynced) {
		w.Fatal("the requests cannot be watched")
	}
}

type condition = cmapi.CertificateRequestCondition

// say sets a condition, and perhaps a certificate, as cert-manager, an approver or an issuer does.
func (w *world) say(r *cmapi.CertificateRequest, certificate []byte, conditions ...condition) {
	w.Helper()
	told := r.DeepCopy()
	told.Status.Conditions = append(told.Status.Conditions, conditions...)
	told.Status.Certificate = certificate
	if _, err := certs.CertificateRequests(r.Namespace).UpdateStatus(context.Background(), told, metav1.UpdateOptions{}); err != nil {
		w.Error(err)
	}
}

func approved() condition {
	return is(cmapi.CertificateRequestConditionApproved, cmmeta.ConditionTrue, "Test", "the test approves")
}

func is(kind cmapi.CertificateRequestConditionType, status cmmeta.ConditionStatus, reason, message string) condition {
	now := metav1.Now()
	return condition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: &now}
}

// waitsInVain issues, and gives up once the request is watched.
func (w *world) waitsInVain(p providers.Provider, req providers.Request) error {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	w.watching = cancel
	defer func() { w.watching = nil }()
	_, err := p.Issue(ctx, req)
	return err
}

// whoami is whom the target takes the bearer of a credential for.
func (w *world) whoami(c providers.Credential) (name string, groups []string) {
	w.Helper()
	cfg := rest.AnonymousClientConfig(serverConfig)
	cfg.CertData, cfg.KeyData = c.ClientCertificate, c.ClientKey
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		w.Fatal(err)
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(w.Context(), selfSubjectReview(), metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return review.Status.UserInfo.Username, review.Status.UserInfo.Groups
}

func hasKey(data []byte) bool { return bytes.Contains(data, []byte("PRIVATE KEY")) }
