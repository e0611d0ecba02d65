package issuer

import (
	"context"
	"errors"
	"strings"
	"time"

	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/clientcertificate"
)

// certManagerAge is how late it may be noticed that cert-manager was installed or removed.
const certManagerAge = 10 * time.Second

// checkCertManager refuses, with an *InvalidError, client certificates where nobody can sign them.
func (i *Issuer) checkCertManager(ctx context.Context, cluster *v1alpha1.TargetCluster) error {
	if cluster.Spec.Issue.Type != v1alpha1.IssueClientCertificate {
		return nil
	}
	if i.requests == nil {
		return &InvalidError{Reason: ReasonNotSupported,
			Message: "spec.issue.type ClientCertificate: certificates are signed by cert-manager in a cluster, and cannot be issued from files: ask the broker"}
	}
	_, err := i.certManager.get(ctx, struct{}{}, func(ctx context.Context, _ answer[struct{}]) answer[struct{}] {
		ctx, cancel := context.WithTimeout(ctx, secretTimeout)
		defer cancel()
		until := i.cfg.Now().Add(certManagerAge)
		return answer[struct{}]{err: i.requests.Installed(ctx), until: until, expires: until}
	})
	if errors.Is(err, providers.ErrNotFound) {
		return &InvalidError{Reason: ReasonCertManagerMissing,
			Message: "spec.issue.type ClientCertificate: certificates are signed by cert-manager, which this cluster does not have: install it, with its CRDs"}
	}
	return err
}

// clientCertificate builds the provider of spec.issue.clientCertificate.
func (i *Issuer) clientCertificate(cluster *v1alpha1.TargetCluster, resolution *Resolution) error {
	spec := cluster.Spec.Issue.ClientCertificate
	cfg := clientcertificate.Config{
		Requests:  i.requests,
		Namespace: cluster.Namespace,
		Owner: metav1.OwnerReference{
			APIVersion: v1alpha1.GroupVersion.String(),
			Kind:       "TargetCluster",
			Name:       cluster.Name,
			UID:        cluster.UID,
		},
		Endpoint:      resolution.Endpoint,
		Issuer:        cmmeta.IssuerReference{Name: spec.IssuerRef.Name, Kind: spec.IssuerRef.Kind, Group: spec.IssuerRef.Group},
		CommonName:    spec.CommonName,
		Organizations: spec.Organizations,
		Duration:      defaultDuration,
	}
	if spec.Duration != nil {
		cfg.Duration = spec.Duration.Duration
	}
	provider, err := clientcertificate.New(cfg)
	if err != nil {
		return &InvalidError{Reason: ReasonInvalidIssue, Message: err.Error()}
	}
	resolution.issue = provider
	resolution.Warning = strings.Trim(resolution.Warning+"; "+provider.Warning(), "; ")
	return nil
}
