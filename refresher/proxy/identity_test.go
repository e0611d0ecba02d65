package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyferry/keyferry/internal/clocktest"
)

func TestIdentityStaysTheSame(t *testing.T) {
	dir := t.TempDir()
	first, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if first.Token() != second.Token() || !bytes.Equal(first.CA(), second.CA()) {
		t.Error("after a restart, the identity is another one")
	}
	info, err := os.Stat(filepath.Join(dir, identityFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, error %v", info.Mode(), err)
	}
	other, err := LoadIdentity(t.TempDir())
	if err != nil || other.Token() == first.Token() || bytes.Equal(other.CA(), first.CA()) {
		t.Errorf("another Pod has the same identity (error %v)", err)
	}
}

func TestBrokenIdentityIsReplaced(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, identityFile), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir); err != nil {
		t.Error(err)
	}
	if _, err := LoadIdentity(filepath.Join(dir, "missing")); err == nil {
		t.Error("an identity was kept in a directory that is not there")
	}
}

// identityThatShows returns an Identity and its current server certificate.
func identityThatShows(t *testing.T) (*Identity, *tls.Certificate) {
	t.Helper()
	id, err := newIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	shown, err := id.certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return id, shown
}

// TestCertificateAfterASuspension: clients use the wall clock.
func TestCertificateAfterASuspension(t *testing.T) {
	id, shown := identityThatShows(t)
	clock := clocktest.New()
	clock.Set(-leafLife)
	id.renewAt = clock.Now().Add(leafLife / 2)
	if renewed, err := id.certificate(nil); err != nil || renewed == shown {
		t.Errorf("the leaf was not renewed (error %v)", err)
	}
}

// TestCertificates checks the requirements of strict clients, such as rustls, and Python since
// 3.13.
func TestCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id, shown := identityThatShows(t)
		leaf, err := x509.ParseCertificate(shown.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(id.CA())
		for _, name := range []string{"127.0.0.1", "::1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"} {
			if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, certificate := range map[string]*x509.Certificate{"CA": id.ca, "leaf": leaf} {
			if len(certificate.SubjectKeyId) == 0 || !bytes.Equal(certificate.AuthorityKeyId, id.ca.SubjectKeyId) {
				t.Errorf("%s: key ids %x and %x", name, certificate.SubjectKeyId, certificate.AuthorityKeyId)
			}
			if !certificate.BasicConstraintsValid || certificate.IsCA != (name == "CA") || certificate.KeyUsage == 0 {
				t.Errorf("%s: basic constraints %v, CA %v, key usage %v", name, certificate.BasicConstraintsValid, certificate.IsCA, certificate.KeyUsage)
			}
			if _, ok := certificate.PublicKey.(*ecdsa.PublicKey); !ok {
				t.Errorf("%s: key is a %T", name, certificate.PublicKey)
			}
			if bytes.Equal(certificate.RawSubject, id.ca.RawSubject) != (name == "CA") {
				t.Errorf("%s: subject %s", name, certificate.Subject)
			}
		}

		<-time.After(leafLife / 3)
		if again, err := id.certificate(nil); err != nil || again != shown {
			t.Errorf("the leaf was renewed before it was due (error %v)", err)
		}
		<-time.After(leafLife / 3)
		renewed, err := id.certificate(nil)
		if err != nil || renewed == shown {
			t.Errorf("the leaf was not renewed (error %v)", err)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	id, err := newIdentity(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	good, err := id.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("-----BEGIN KEYFERRY LOCAL TOKEN-----\nAAAA\n-----END KEYFERRY LOCAL TOKEN-----\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		id, err := parseIdentity(content)
		if err != nil {
			return
		}
		if len(id.Token()) < 40 {
			t.Errorf("token %q", id.Token())
		}
		if _, err := id.certificate(nil); err != nil && id.ca.IsCA {
			t.Error(err)
		}
	})
}

// FuzzSplitProtocols checks that tokens are never forwarded, and that nothing else is lost.
func FuzzSplitProtocols(f *testing.F) {
	f.Add("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.dG9rZW4")
	f.Add(",, ,base64url.bearer.authorization.k8s.io.")
	f.Fuzz(func(t *testing.T, value string) {
		protocols, tokens := splitProtocols([]string{value})
		again, none := splitProtocols(protocols)
		if len(none) > 0 || len(again) != len(protocols) {
			t.Errorf("%q leaves %q, which has the tokens %q", value, protocols, none)
		}
		_ = tokens
	})
}
