// Package clientcertificate has client certificates signed by cert-manager. It makes a key and a
// CertificateRequest, waits until that is approved and signed, and takes nothing that is not what
// was asked for.
//
// A key is in memory only. A request that is not decided on in time is found again, with its key,
// when somebody asks again; after a restart of the process it is not, and another is made.
package clientcertificate

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
)

// Requests are ours if they have these labels. The annotations say for whom they are; of those that
// share a certificate, who asked first.
const (
	labelManagedBy = "app.kubernetes.io/managed-by"
	managedBy      = "keyferry"
	labelPurpose   = "keyferry.dev/purpose"
	purpose        = "client-certificate"

	annotationTargetCluster  = "keyferry.dev/target-cluster"
	annotationServiceAccount = "keyferry.dev/service-account"
	annotationPod            = "keyferry.dev/pod"
)

// timeout bounds one issue, without the removal of the request. Who waits longer finds the same
// request again.
const timeout = 10 * time.Second

// Config is what a Provider is made from.
type Config struct {
	// Requests are those of the process.
	Requests *Requests
	// Owner is the TargetCluster that certificates are issued for, in Namespace. Its requests are
	// there, too, and are deleted with it.
	Namespace string
	Owner     metav1.OwnerReference

	// Endpoint of the target is handed on.
	Endpoint endpoint.Endpoint

	// Issuer is cert-manager's, or an external one.
	Issuer cmmeta.IssuerReference
	// CommonName and Organizations may hold ${namespace}, ${serviceAccount}, ${podName} and ${podUID}.
	CommonName    string
	Organizations []string
	// Duration that is asked for.
	Duration time.Duration
}

// Provider has certificates signed for one TargetCluster.
type Provider struct {
	cfg     Config
	subject subjectTemplate
}

// New returns a Provider, or an error that names the field that is wrong, and the fix.
func New(cfg Config) (*Provider, error) {
	switch {
	case cfg.Requests == nil:
		return nil, errors.New("clientcertificate: Requests is required")
	case cfg.Namespace == "" || cfg.Owner.UID == "":
		return nil, errors.New("clientcertificate: Namespace, and an Owner with a UID, are required")
	case cfg.Issuer.Name == "":
		return nil, errors.New("spec.issue.clientCertificate.issuerRef.name is empty: name an issuer of cert-manager")
	case cfg.Duration <= 0:
		return nil, errors.New("spec.issue.clientCertificate.duration must be positive")
	}
	subject, err := parseSubject(cfg.CommonName, cfg.Organizations)
	if err != nil {
		return nil, err
	}
	return &Provider{cfg: cfg, subject: subject}, nil
}

// Warning is a sentence about what works and should not be so; empty if there is nothing.
func (p *Provider) Warning() string { return p.subject.warning() }

// ShareKey holds as much of the identity as the subject depends on: nothing, the namespace, the
// ServiceAccount or the Pod. A ServiceAccount that was deleted and made again is another one, even
// if the name is the same.
func (p *Provider) ShareKey(req providers.Request) string {
	id := req.Identity
	parts := []string{id.Namespace, id.ServiceAccount, id.ServiceAccountUID, id.PodName, id.PodUID}
	return strings.Join(parts[:p.subject.dependsOn()], "/")
}

// Issue has a certificate signed.
func (p *Provider) Issue(ctx context.Context, req providers.Request) (providers.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	subject, err := p.subject.of(req.Identity)
	if err != nil {
		return providers.Credential{}, fmt.Errorf("%w: %w", providers.ErrRefused, err)
	}
	credential, err := p.cfg.Requests.issue(ctx, order{
		namespace: p.cfg.Namespace,
		id:        fmt.Sprintf("%s %v %v %q %s", p.cfg.Owner.UID, p.cfg.Issuer, p.cfg.Duration, subject, p.ShareKey(req)),
		subject:   subject,
		request: func(key crypto.Signer) (*cmapi.CertificateRequest, error) {
			return p.request(key, subject, req.Identity)
		},
	})
	credential.Endpoint = p.cfg.Endpoint
	return credential, err
}

// request returns what cert-manager is asked for.
func (p *Provider) request(key crypto.Signer, subject subject, id providers.Identity) (*cmapi.CertificateRequest, error) {
	signingRequest, err := subject.signingRequest(key)
	if err != nil {
		return nil, err
	}
	annotations := map[string]string{
		annotationTargetCluster:  p.cfg.Owner.Name,
		annotationServiceAccount: id.Namespace + "/" + id.ServiceAccount,
	}
	if id.PodName != "" {
		annotations[annotationPod] = id.PodName
	}
	return &cmapi.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       p.cfg.Namespace,
			GenerateName:    "keyferry-" + p.cfg.Owner.Name + "-",
			Labels:          map[string]string{labelManagedBy: managedBy, labelPurpose: purpose},
			Annotations:     annotations,
			OwnerReferences: []metav1.OwnerReference{p.cfg.Owner},
		},
		Spec: cmapi.CertificateRequestSpec{
			Request:   signingRequest,
			IssuerRef: p.cfg.Issuer,
			Duration:  &metav1.Duration{Duration: p.cfg.Duration},
			Usages:    []cmapi.KeyUsage{cmapi.UsageDigitalSignature, cmapi.UsageClientAuth},
		},
	}, nil
}
