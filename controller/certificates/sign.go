package certificates

import (
	"fmt"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/cert-manager/cert-manager/pkg/util/pki"
)

func newAuthority(now time.Time) (*pair, error) {
	return sign(cmapi.CertificateSpec{
		// The day tells authorities apart in a bundle.
		CommonName: "keyferry-ca " + now.UTC().Format(time.DateOnly),
		IsCA:       true,
		Usages:     []cmapi.KeyUsage{cmapi.UsageCertSign, cmapi.UsageCRLSign, cmapi.UsageDigitalSignature},
	}, now, now.Add(authorityLife), nil)
}

// newLeaf is never valid for longer than its authority.
func newLeaf(now time.Time, names []string, by *pair) (*pair, error) {
	end := now.Add(leafLife)
	if end.After(by.cert.NotAfter) {
		end = by.cert.NotAfter
	}
	return sign(cmapi.CertificateSpec{
		DNSNames: names,
		Usages:   []cmapi.KeyUsage{cmapi.UsageServerAuth, cmapi.UsageDigitalSignature},
	}, now, end, by)
}

// sign makes a key and a certificate that is signed by another pair, or by itself.
func sign(spec cmapi.CertificateSpec, now, end time.Time, by *pair) (*pair, error) {
	key, err := pki.GenerateECPrivateKey(pki.ECCurve256)
	if err != nil {
		return nil, fmt.Errorf("generating a private key: %w", err)
	}
	spec.PrivateKey = &cmapi.CertificatePrivateKey{Algorithm: cmapi.ECDSAKeyAlgorithm, Size: pki.ECCurve256}
	template, err := pki.CertificateTemplateFromCertificate(&cmapi.Certificate{Spec: spec})
	if err != nil {
		return nil, fmt.Errorf("preparing a certificate: %w", err)
	}
	template.NotBefore, template.NotAfter = now.Add(-clockSkew), end
	if spec.IsCA {
		template.MaxPathLen, template.MaxPathLenZero = 0, true
	}
	signer, signerKey := template, any(key)
	if by != nil {
		signer, signerKey = by.cert, by.key
	}
	_, cert, err := pki.SignCertificate(template, signer, key.Public(), signerKey)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	return &pair{cert: cert, key: key}, nil
}
