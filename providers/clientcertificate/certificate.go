package clientcertificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyferry/keyferry/providers"
)

const (
	// clockSkew is how much later than here it may be where a certificate is signed.
	clockSkew = time.Minute
	// maxChain is how many certificates an issuer may send.
	maxChain = 10
)

// accept makes a credential of what an issuer sent, if it is what was asked for. Its errors tell
// what is wrong with the certificate, and do not repeat it.
func accept(data []byte, key *ecdsa.PrivateKey, want subject, now time.Time) (providers.Credential, error) {
	chain, err := parseChain(data)
	if err != nil {
		return providers.Credential{}, err
	}
	cert := chain[0]
	switch got := subjectOf(cert); {
	case !key.PublicKey.Equal(cert.PublicKey):
		return providers.Credential{}, errors.New("is for another key")
	case !got.equal(want):
		return providers.Credential{}, fmt.Errorf("has the subject %q instead of %q: configure the issuer not to change the subject", got, want)
	case cert.IsCA:
		return providers.Credential{}, errors.New("is a CA certificate: configure the issuer to sign certificates that are not CAs")
	case !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return providers.Credential{}, errors.New("lacks the usage client auth: configure the issuer to allow it")
	case !cert.NotAfter.After(now):
		return providers.Credential{}, fmt.Errorf("expired at %s, and the time is now %s: check the clocks", clock(cert.NotAfter), clock(now))
	case cert.NotBefore.After(now.Add(clockSkew)):
		return providers.Credential{}, fmt.Errorf("is valid from %s, and the time is now %s: check the clocks", clock(cert.NotBefore), clock(now))
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return providers.Credential{}, fmt.Errorf("encoding its key: %w", err)
	}
	return providers.Credential{
		ClientCertificate: encodeChain(chain),
		ClientKey:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		NotAfter:          cert.NotAfter,
	}, nil
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// parseChain reads a certificate, and those between it and its authority.
func parseChain(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for rest := bytes.TrimSpace(data); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("is no PEM of certificates")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("is malformed")
		}
		if chain = append(chain, cert); len(chain) > maxChain {
			return nil, fmt.Errorf("comes with more than %d others", maxChain)
		}
	}
	if len(chain) == 0 {
		return nil, errors.New("is empty")
	}
	return chain, nil
}

func encodeChain(chain []*x509.Certificate) []byte {
	var all []byte
	for _, cert := range chain {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return all
}
