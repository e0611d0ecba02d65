package resolve

import (
	"strings"

	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers/clientcertificate"
)

// clientCertificate builds the provider of spec.issue.clientCertificate.
func (r *Resolver) clientCertificate(cluster *v1alpha1.TargetCluster, resolution *Resolution) error {
	spec := cluster.Spec.Issue.ClientCertificate
	cfg := clientcertificate.Config{
		Requests:  r.cfg.Requests,
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
	resolution.Issue = provider
	resolution.Warning = strings.Trim(resolution.Warning+"; "+provider.Warning(), "; ")
	return nil
}
