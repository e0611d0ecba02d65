package certificates

import (
	"crypto/x509"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestOwn: the controller's own certificate is verified by what is published, through the lifetime
// of CAs, and stays if the CA is gone.
func TestOwn(t *testing.T) {
	w := newWorld(t)
	own := w.builtin.Own("keyferry-controller")
	refresh := func() {
		t.Helper()
		if err := own.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	serial := func() string {
		t.Helper()
		certificate, err := own.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(w.published()))
		name := "keyferry-controller." + w.namespace + ".svc"
		if _, err := certificate.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: w.now}); err != nil {
			t.Errorf("at %s: %v", w.now, err)
		}
		return certificate.Leaf.SerialNumber.String()
	}

	refresh()
	if _, err := own.GetCertificate(nil); err == nil {
		t.Error("there is a certificate without a CA")
	}
	w.reconcile()
	refresh()
	first := serial()
	refresh()
	if serial() != first {
		t.Error("a certificate that is good is replaced")
	}
	w.now = w.now.Add(60 * day)
	refresh()
	second := serial()
	if second == first {
		t.Error("the certificate was not renewed after two thirds of its lifetime")
	}
	if err := w.client.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "keyferry-ca"}}); err != nil {
		t.Fatal(err)
	}
	refresh()
	if serial() != second {
		t.Error("without a CA, the certificate does not stay")
	}
	w.reconcile() // another CA
	refresh()
	serial()
}
