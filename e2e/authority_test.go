package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestAuthorityRotation: Keyferry's own authority is succeeded by the next one while Pods renew and
// are created, and nobody notices. Its Secret is given the dates that it would have after years.
func TestAuthorityRotation(t *testing.T) {
	t.Parallel()
	tn, ns, pod, before := workingPod(t)
	creation := tn.createPods(t, ns)

	next := age(t)
	eventually(t, time.Minute, "the next authority signs, and both are published", func() error {
		secret := keyferrySecret(t, "keyferry-ca")
		trust := &corev1.ConfigMap{}
		if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "keyferry-trust"}, trust); err != nil {
			return err
		}
		if !slices.Equal(secret.Data["tls.crt"], next) || !strings.Contains(trust.Data["ca.crt"], string(next)) || strings.Count(trust.Data["ca.crt"], "BEGIN") != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	// As long as the kubelet may take to bring the bundle to Pods; it has a week.
	published := time.Now()
	eventually(t, 3*time.Minute, "Pods have the bundle", func() error {
		if left := time.Until(published.Add(2 * time.Minute)); left > 0 {
			return fmt.Errorf("that takes up to %s more", left)
		}
		return nil
	})
	// Certificates are signed again after 60 days, or when they are gone.
	for _, name := range []string{"keyferry-webhook-tls", "keyferry-broker-tls"} {
		if err := suite.management.Delete(t.Context(), keyferrySecret(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, time.Minute, "certificates are signed by the next authority", func() error {
		for _, name := range []string{"keyferry-webhook-tls", "keyferry-broker-tls"} {
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: suite.release, Name: name}}
			if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); err != nil {
				return err
			}
			if err := signedBy(secret.Data["tls.crt"], next); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	renewed(t, pod, 6)

	creation.stop()
	for _, wrong := range creation.wrong() {
		t.Error(wrong)
	}
	inTime(t, pod)
	if n, err := failuresSince(t.Context(), ns, pod.Name, before); err != nil || n != 0 {
		t.Errorf("%d requests failed (%v)", n, err)
	}
	t.Logf("%d Pods were created meanwhile", creation.count())
}

// age takes the authority to the end of its life: the same key and name, but the certificate ends
// in 100 days, and a successor has been published for eight days. It returns the successor's
// certificate.
func age(t *testing.T) (next []byte) {
	t.Helper()
	secret := keyferrySecret(t, "keyferry-ca")
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("the key is a %T", pair.PrivateKey)
	}
	old, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	old.NotAfter = time.Now().Add(100 * day)
	secret.Data["tls.crt"] = selfSigned(t, old, key)

	nextKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(nextKey)
	if err != nil {
		t.Fatal(err)
	}
	next = selfSigned(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "the next authority"}, NotBefore: time.Now().Add(-8 * day), NotAfter: time.Now().Add(1000 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, nextKey)
	secret.Data["next.crt"], secret.Data["next.key"] = next, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := suite.management.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	return next
}

func selfSigned(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
