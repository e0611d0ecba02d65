package installation

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

const namespace = "keyferry-system"

// keyferry answers as webhook and broker do, under any host.
func keyferry(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/credential") {
		w.WriteHeader(http.StatusUnauthorized)
		_ = json.NewEncoder(w).Encode(metav1.Status{Code: http.StatusUnauthorized})
		return
	}
	body, _ := io.ReadAll(r.Body)
	review := admissionv1.AdmissionReview{}
	if err := json.Unmarshal(body, &review); err != nil || len(review.Request.Object.Raw) == 0 {
		http.Error(w, "no review", http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(admissionv1.AdmissionReview{Response: &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}})
}

func TestCheck(t *testing.T) {
	server := newServer(t, http.HandlerFunc(keyferry))
	other := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{}")
	}))
	strict := newServerFor(t, tls.RequireAnyClientCert, http.HandlerFunc(keyferry))
	stranger := []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")

	for name, test := range map[string]struct {
		server  *testServer
		objects []client.Object
		want    map[string]string // a part of the error; empty: it works
		note    string            // a part of the note of webhooks
	}{
		"all is well": {
			server:  server,
			objects: []client.Object{mutating(server.bundle()), validating(server.bundle()), trust(server.bundle())},
			want:    map[string]string{"webhook pods.keyferry.dev": "", "webhook workloads.keyferry.dev": "", "broker": ""},
		},
		"not installed": {
			server: server,
			want: map[string]string{
				"MutatingWebhookConfiguration keyferry-webhook":   "install Keyferry's Helm chart",
				"ValidatingWebhookConfiguration keyferry-webhook": "install Keyferry's Helm chart",
				"broker": "look at the log of keyferry-controller",
			},
		},
		"no caBundle yet": {
			server:  server,
			objects: []client.Object{mutating(nil), validating(server.bundle()), trust(server.bundle())},
			want:    map[string]string{"webhook pods.keyferry.dev": "has no caBundle yet", "webhook workloads.keyferry.dev": "", "broker": ""},
		},
		"another CA": {
			server:  server,
			objects: []client.Object{mutating(stranger), validating(server.bundle()), trust(stranger)},
			want:    map[string]string{"webhook pods.keyferry.dev": "contains no certificate", "webhook workloads.keyferry.dev": "", "broker": "contains no certificate"},
		},
		"client certificates": {
			server:  strict,
			objects: []client.Object{mutating(strict.bundle()), validating(strict.bundle()), trust(server.bundle())},
			want:    map[string]string{"webhook pods.keyferry.dev": "", "webhook workloads.keyferry.dev": "", "broker": "certificate"},
			note:    "serves only clients with a certificate",
		},
		"somebody else answers": {
			server:  other,
			objects: []client.Object{mutating(other.bundle()), validating(other.bundle()), trust(other.bundle())},
			want: map[string]string{
				"webhook pods.keyferry.dev":      "is it Keyferry's webhook?",
				"webhook workloads.keyferry.dev": "is it Keyferry's webhook?",
				"broker":                         "is it Keyferry's broker?",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			findings := Check(t.Context(), Config{
				Client:    fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(test.objects...).Build(),
				Namespace: namespace,
				Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, test.server.Listener.Addr().String())
				},
			})
			if len(findings) != len(test.want) {
				t.Errorf("got findings %v, want %d", findings, len(test.want))
			}
			works := true
			for _, f := range findings {
				part, ok := test.want[f.What]
				switch {
				case !ok:
					t.Errorf("unexpected finding %s: %v", f.What, f.Err)
				case part == "" && f.Err != nil:
					t.Errorf("%s: %v", f.What, f.Err)
				case part != "" && (f.Err == nil || !strings.Contains(f.Err.Error(), part)):
					t.Errorf("%s: got error %v, want one with %q", f.What, f.Err, part)
				}
				if webhook := strings.HasPrefix(f.What, "webhook "); webhook && (!strings.Contains(f.Note, test.note) || test.note == "" && f.Note != "") {
					t.Errorf("%s: note %q", f.What, f.Note)
				}
				works = works && part == ""
			}
			if Works(findings) != works {
				t.Errorf("Works is %v", !works)
			}
		})
	}
}

// testServer serves with a certificate for the Services of namespace, whatever they are called.
type testServer struct {
	*httptest.Server
	certificate []byte
}

func newServer(t *testing.T, handler http.Handler) *testServer {
	t.Helper()
	return newServerFor(t, tls.NoClientCert, handler)
}

func newServerFor(t *testing.T, clients tls.ClientAuthType, handler http.Handler) *testServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"*." + namespace + ".svc"},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: clients, Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return &testServer{server, certificate}
}

func (s *testServer) bundle() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certificate})
}

func mutating(ca []byte) client.Object {
	return &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "keyferry-webhook"},
		Webhooks:   []admissionregistrationv1.MutatingWebhook{{Name: "pods.keyferry.dev", ClientConfig: clientConfig("/mutate-pod", ca)}},
	}
}

func validating(ca []byte) client.Object {
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "keyferry-webhook"},
		Webhooks:   []admissionregistrationv1.ValidatingWebhook{{Name: "workloads.keyferry.dev", ClientConfig: clientConfig("/validate-workload", ca)}},
	}
}

func clientConfig(path string, ca []byte) admissionregistrationv1.WebhookClientConfig {
	return admissionregistrationv1.WebhookClientConfig{
		Service:  &admissionregistrationv1.ServiceReference{Namespace: namespace, Name: "keyferry-webhook", Path: ptr.To(path), Port: ptr.To[int32](443)},
		CABundle: ca,
	}
}

func trust(ca []byte) client.Object {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "keyferry-trust"},
		Data:       map[string]string{"ca.crt": string(ca)},
	}
}
