package certificates

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"time"

	"github.com/cert-manager/cert-manager/pkg/util/pki"
	corev1 "k8s.io/api/core/v1"
)

// The keys of the authority's Secret, which is its whole memory.
//
// An authority goes through three roles: next, current, previous. It has a private key in the first
// two.
const (
	// The one that signs.
	currentCert = corev1.TLSCertKey
	currentKey  = corev1.TLSPrivateKeyKey
	// Its successor: published, so that everybody knows it by the time that something is signed with
	// it.
	nextCert = "next.crt"
	nextKey  = "next.key"
	// Predecessors, in one PEM bundle: published until the last leaf that they signed has ended, which
	// is at previousUntil (RFC 3339) at the latest.
	previousCerts = "previous.crt"
	previousUntil = "previous.until"
)

// caKey holds the published bundle, in the leaves' Secrets and in the trust ConfigMaps.
const caKey = "ca.crt"

// pair is a certificate with its private key. Key is nil where it is missing or another
// certificate's.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// usable reports whether something can be signed, or served, with p.
func (p *pair) usable(now time.Time) bool {
	return p != nil && p.key != nil && !now.Before(p.cert.NotBefore) && now.Before(p.cert.NotAfter)
}

// authority is the parsed content of the authority's Secret.
type authority struct {
	current, next *pair
	previous      []*x509.Certificate
	previousUntil time.Time
}

// parseAuthority reads a Secret's data. What makes no sense is absent in the result.
func parseAuthority(data map[string][]byte) authority {
	a := authority{
		current: parsePair(data[currentCert], data[currentKey], isCA),
		next:    parsePair(data[nextCert], data[nextKey], isCA),
	}
	if until, err := time.Parse(time.RFC3339, string(data[previousUntil])); err == nil {
		if certs, err := pki.DecodeX509CertificateSetBytes(data[previousCerts]); err == nil {
			a.previous, a.previousUntil = certs, until
		}
	}
	return a
}

// encode is the inverse of parseAuthority.
func (a authority) encode() (map[string][]byte, error) {
	data := map[string][]byte{}
	for _, role := range []struct {
		of        *pair
		cert, key string
	}{{a.current, currentCert, currentKey}, {a.next, nextCert, nextKey}} {
		if role.of == nil {
			continue
		}
		cert, key, err := role.of.encode()
		if err != nil {
			return nil, err
		}
		data[role.cert], data[role.key] = cert, key
	}
	if len(a.previous) > 0 {
		certs, err := encodeAll(a.previous)
		if err != nil {
			return nil, err
		}
		data[previousCerts], data[previousUntil] = certs, []byte(a.previousUntil.UTC().Format(time.RFC3339))
	}
	return data, nil
}

// published are the certificates that everybody is to trust, the current one first.
func (a authority) published() []*x509.Certificate {
	certs := []*x509.Certificate{}
	for _, p := range []*pair{a.current, a.next} {
		if p != nil {
			certs = append(certs, p.cert)
		}
	}
	return append(certs, a.previous...)
}

// leaf is the parsed content of a leaf's Secret.
type leaf struct {
	pair *pair
	// bundle is what was published when the Secret was last written.
	bundle []*x509.Certificate
}

func parseLeaf(data map[string][]byte) leaf {
	bundle, err := pki.DecodeX509CertificateSetBytes(data[caKey])
	if err != nil {
		bundle = nil
	}
	return leaf{pair: parsePair(data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey], isLeaf), bundle: bundle}
}

// signers are the certificates among candidates that signed the leaf.
func (l leaf) signers(candidates []*x509.Certificate) []*x509.Certificate {
	var found []*x509.Certificate
	for _, c := range candidates {
		if l.pair != nil && l.pair.cert.CheckSignatureFrom(c) == nil {
			found = append(found, c)
		}
	}
	return found
}

func isCA(c *x509.Certificate) bool   { return c.IsCA && c.BasicConstraintsValid }
func isLeaf(c *x509.Certificate) bool { return !c.IsCA }

// parsePair returns nil where there is no certificate of the wanted sort.
func parsePair(certPEM, keyPEM []byte, sort func(*x509.Certificate) bool) *pair {
	cert, err := pki.DecodeX509CertificateBytes(certPEM)
	if err != nil || !sort(cert) {
		return nil
	}
	key, err := pki.DecodePrivateKeyBytes(keyPEM)
	if err != nil {
		return &pair{cert: cert}
	}
	if same, err := pki.PublicKeyMatchesCertificate(key.Public(), cert); err != nil || !same {
		return &pair{cert: cert}
	}
	return &pair{cert: cert, key: key}
}

func (p *pair) encode() (cert, key []byte, err error) {
	if cert, err = pki.EncodeX509(p.cert); err != nil {
		return nil, nil, err
	}
	key, err = pki.EncodePKCS8PrivateKey(p.key)
	return cert, key, err
}

func encodeAll(certs []*x509.Certificate) ([]byte, error) {
	var all bytes.Buffer
	for _, cert := range certs {
		encoded, err := pki.EncodeX509(cert)
		if err != nil {
			return nil, err
		}
		all.Write(encoded)
	}
	return all.Bytes(), nil
}
