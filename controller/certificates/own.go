package certificates

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/log"
)

// retry is how soon the CA is read again while there is no certificate.
const retry = 5 * time.Second

// Own is a serving certificate for the program that has the CA. It is in memory only, and each
// replica has another one.
type Own struct {
	builtin *Builtin
	names   []string
	leaf    leaf
	serving atomic.Pointer[tls.Certificate]
}

// Own returns a certificate for the name of a Service, which need not exist. There is no
// certificate until Start has read the CA.
func (b *Builtin) Own(service string) *Own {
	return &Own{builtin: b, names: b.dnsNames(service)}
}

// GetCertificate is for a tls.Config.
func (o *Own) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if certificate := o.serving.Load(); certificate != nil {
		return certificate, nil
	}
	return nil, fmt.Errorf("there is no certificate yet: Secret %s/%s has no CA", o.builtin.cfg.Namespace, o.builtin.cfg.Secret)
}

// NeedLeaderElection is false: each replica serves.
func (o *Own) NeedLeaderElection() bool { return false }

// Start keeps the certificate current until ctx ends.
func (o *Own) Start(ctx context.Context) error {
	for {
		if err := o.refresh(ctx); err != nil && ctx.Err() == nil {
			log.FromContext(ctx).Error(err, "cannot renew the controller's own certificate")
		}
		after := period
		if o.serving.Load() == nil {
			after = retry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(after):
		}
	}
}

// refresh signs a new certificate if one is due. If there is no CA, the old certificate stays.
func (o *Own) refresh(ctx context.Context) error {
	secret, err := o.builtin.read(ctx, o.builtin.cfg.Secret)
	if err != nil {
		return err
	}
	now, ca := o.builtin.cfg.Now(), parseAuthority(secret.Data)
	if !ca.current.usable(now) || o.leaf.flaw(now, ca, o.names) == "" {
		return nil
	}
	signed, err := newLeaf(now, o.names, ca.current)
	if err != nil {
		return err
	}
	o.leaf = leaf{pair: signed}
	o.serving.Store(&tls.Certificate{Certificate: [][]byte{signed.cert.Raw}, PrivateKey: signed.key, Leaf: signed.cert})
	return nil
}
