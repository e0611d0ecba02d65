package clientcertificate_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	certmanager "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned/typed/certmanager/v1"
	"k8s.io/client-go/rest"

	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/clientcertificate"
	"github.com/keyferry/keyferry/providers/providertest"
)

// planted is a token by which this cluster's API server would be asked.
const planted = "planted-token-of-the-broker"

// against returns a Provider whose API server is handler.
func against(t *testing.T, handler http.Handler) *clientcertificate.Provider {
	t.Helper()
	front := httptest.NewServer(handler)
	t.Cleanup(front.Close)
	w := &world{T: t, namespace: "fleet", owner: newOwner()}
	cfg := w.config()
	cfg.Requests = clientcertificate.NewRequests(certmanager.NewForConfigOrDie(&rest.Config{Host: front.URL, BearerToken: planted}), nil)
	return provider(t, cfg)
}

func TestContract(t *testing.T) {
	issuing := func(t *testing.T, say ...condition) providers.Provider {
		t.Helper()
		w := newWorld(t)
		w.each(func(r *cmapi.CertificateRequest) { w.say(r, nil, say...) })
		return provider(t, w.config())
	}
	providertest.Run(t, providertest.Suite{
		New: func(t *testing.T) providers.Provider { t.Helper(); return issuing(t, approved()) },
		Refused: func(t *testing.T) providers.Provider {
			t.Helper()
			return issuing(t, is(cmapi.CertificateRequestConditionDenied, cmmeta.ConditionTrue, "Policy", "no"))
		},
		NotFound: func(t *testing.T) providers.Provider { t.Helper(); return against(t, http.NotFoundHandler()) },
		Unavailable: func(t *testing.T) providers.Provider {
			t.Helper()
			return against(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "no etcd", http.StatusInternalServerError)
			}))
		},
		Hanging: func(t *testing.T) (providers.Provider, <-chan struct{}) {
			t.Helper()
			asked := make(chan struct{})
			var once sync.Once
			return against(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body) // only then is it noticed that the client is gone
				once.Do(func() { close(asked) })
				<-req.Context().Done()
			})), asked
		},
		Secrets: []string{planted, "PRIVATE KEY"},
		Request: web,
	})
}
