package resolve

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Types of Secrets that hold kubeconfigs, besides Opaque.
const (
	// secretTypeClusterAPI is what Cluster API and its providers create.
	secretTypeClusterAPI corev1.SecretType = "cluster.x-k8s.io/secret"
	// secretTypeCrossplane is a connection Secret of Crossplane.
	secretTypeCrossplane corev1.SecretType = "connection.crossplane.io/v1alpha1"
)

// Secret is the part of a Secret that a TargetCluster uses.
type Secret struct {
	Name types.NamespacedName
	// Type is that of the Secret; empty means Opaque, as the API server defaults it.
	Type   corev1.SecretType
	Labels map[string]string
	Data   map[string][]byte
}

// String returns the Secret's name as messages show it; empty if there is none.
func (s Secret) String() string {
	if s.Name.Name == "" {
		return ""
	}
	return s.Name.String()
}

// checkType refuses a Secret that was made for something else: users who may write TargetClusters
// choose where its content is sent. The types of Cluster API and Crossplane are also those of other
// Secrets, such as passwords of databases; a kubeconfig is recognised by its form. The error is an
// *InvalidError.
func (s Secret) checkType(used row) error {
	kind := cmp.Or(s.Type, corev1.SecretTypeOpaque)
	allowed := append([]corev1.SecretType{corev1.SecretTypeOpaque}, used.secretTypes...)
	if s.Name.Name == "" || slices.Contains(allowed, kind) {
		return nil
	}
	return &InvalidError{Reason: ReasonInvalidSecretType, Message: fmt.Sprintf(
		"Secret %s has the type %s, but spec.access.type %s reads only Secrets of the types %s: put the credential into a Secret of the type Opaque",
		s, kind, used.accessType, joinTypes(allowed))}
}

func joinTypes(all []corev1.SecretType) string {
	names := make([]string, len(all))
	for i, kind := range all {
		names[i] = string(kind)
	}
	return strings.Join(names, ", ")
}
