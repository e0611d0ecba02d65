package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/keyferry/keyferry/internal/expiry"
	"github.com/keyferry/keyferry/refresher/fileset"
)

const (
	identityFile = "identity.pem"
	tokenBlock   = "KEYFERRY LOCAL TOKEN"

	// caLife is the lifetime of the CA. It is longer than the lifetime of any Pod, because most
	// clients never read a CA again.
	caLife = 10 * 365 * 24 * time.Hour
	// leafLife is the lifetime of the server certificate. It is renewed after half of it.
	leafLife = 30 * 24 * time.Hour
	// backdate allows for clocks that are set back.
	backdate = 24 * time.Hour
)

// Identity is a CA, by which the clients of a Pod verify the proxy, and a token, by which the proxy
// authenticates the clients. Both stay the same while the Pod exists, so clients need not read them
// again.
type Identity struct {
	token string
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey

	mu      sync.Mutex
	leaf    *tls.Certificate
	renewAt time.Time
}

// LoadIdentity returns the Identity in dir, or creates one. It replaces an invalid one. No other
// container may read dir.
func LoadIdentity(dir string) (*Identity, error) {
	path := filepath.Join(dir, identityFile)
	content, err := os.ReadFile(path) //nolint:gosec // the path is the operator's
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the proxy's identity: %w", err)
	}
	if id, err := parseIdentity(content); err == nil && time.Now().Before(id.ca.NotAfter) {
		return id, nil
	}
	id, err := newIdentity(time.Now())
	if err != nil {
		return nil, fmt.Errorf("making the proxy's identity: %w", err)
	}
	if content, err = id.encode(); err != nil {
		return nil, fmt.Errorf("encoding the proxy's identity: %w", err)
	}
	if err := fileset.WriteFile(path, content); err != nil {
		return nil, fmt.Errorf("writing the proxy's identity: %w", err)
	}
	return id, nil
}

// Token returns the token for clients.
func (id *Identity) Token() string { return id.token }

// CA returns the CA certificate as PEM.
func (id *Identity) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.ca.Raw})
}

func newIdentity(now time.Time) (*Identity, error) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate("Keyferry proxy of this Pod", &key.PublicKey, now, caLife)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.MaxPathLenZero = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	template.AuthorityKeyId = template.SubjectKeyId
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	return &Identity{token: base64.RawURLEncoding.EncodeToString(secret[:]), ca: ca, key: key}, nil
}

// newTemplate returns the template for the CA and server certificates.
func newTemplate(name string, key *ecdsa.PublicKey, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	keyID := sha256.Sum256(public)
	return &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID[:20],
	}, nil
}

// certificate implements GetCertificate of tls.Config.
func (id *Identity) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	now := time.Now()
	if id.leaf != nil && !expiry.Due(now, id.renewAt) {
		return id.leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate("Keyferry proxy", &key.PublicKey, now, leafLife)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	template.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	raw, err := x509.CreateCertificate(rand.Reader, template, id.ca, &key.PublicKey, id.key)
	if err != nil {
		return nil, err
	}
	id.leaf, id.renewAt = &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, now.Add(leafLife/2)
	return id.leaf, nil
}

func (id *Identity) encode() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, block := range []pem.Block{
		{Type: "CERTIFICATE", Bytes: id.ca.Raw},
		{Type: "PRIVATE KEY", Bytes: key},
		{Type: tokenBlock, Bytes: []byte(id.token)},
	} {
		out.Write(pem.EncodeToMemory(&block))
	}
	return out.Bytes(), nil
}

// parseIdentity parses the result of encode.
func parseIdentity(content []byte) (*Identity, error) {
	blocks := map[string][]byte{}
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			break
		}
		blocks[block.Type] = block.Bytes
	}
	ca, err := x509.ParseCertificate(blocks["CERTIFICATE"])
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(blocks["PRIVATE KEY"])
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(ca.PublicKey) {
		return nil, errors.New("the key does not belong to the certificate")
	}
	token := string(blocks[tokenBlock])
	if secret, err := base64.RawURLEncoding.Strict().DecodeString(token); err != nil || len(secret) != 32 {
		return nil, errors.New("the token is not one of ours")
	}
	return &Identity{token: token, ca: ca, key: key}, nil
}
