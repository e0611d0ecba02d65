// Package stored says what a Secret holds: a credential in the form that a program takes it in,
// with what Keyferry knows of it.
//
// It is pure: it reads and makes Secrets, and neither gets nor writes them.
package stored

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/issuer"
)

// Credential is a credential in the form in which a Secret holds it, with what is known of it. The
// Secret keeps all of it, so that after a restart nothing has to be issued again.
type Credential struct {
	Record
	// Data is never changed.
	Data map[string][]byte
}

// Record is the value of the annotation keyferry.dev/credential. Times are whole seconds.
type Record struct {
	// Source is the digest of all that the credential and its form come from.
	Source   string    `json:"source"`
	IssuedAt time.Time `json:"issuedAt"`
	NotAfter time.Time `json:"notAfter"`
	RenewAt  time.Time `json:"renewAt"`
	// Digest is that of the data: it shows when somebody has edited it.
	Digest string `json:"digest"`
	// Keys, Labels and Annotations are those that Keyferry set, so that it can take them away again;
	// others are not its.
	Keys        []string `json:"keys"`
	Labels      []string `json:"labels,omitempty"`
	Annotations []string `json:"annotations,omitempty"`
}

// Due reports whether it is time to replace the credential. One that was issued later than now was
// so by a clock that was wrong, or is now: nothing of what it says about time can be relied on.
func (h *Credential) Due(now time.Time) bool {
	return !now.Before(h.RenewAt) || now.Before(h.IssuedAt.Add(-maxSkew))
}

// Alive reports whether the credential can still be used.
func (h *Credential) Alive(now time.Time) bool { return now.Before(h.NotAfter) }

// Source is the digest of all that a credential for the request and its form come from, but for the
// labels and annotations of the Secret. Where it is another one, the credential is another one.
func Source(request *v1alpha1.CredentialRequest, cluster *v1alpha1.TargetCluster, resolution issuer.Resolution) string {
	depends := []any{
		request.UID, request.Spec.TargetCluster, request.Spec.ServiceAccountName, request.Spec.Type, request.Spec.Duration, request.Spec.Secret.Key,
		cluster.UID, cluster.Spec.DefaultNamespace, cluster.Spec.Issue, resolution.Endpoint,
	}
	if cluster.Spec.Issue.Type == v1alpha1.IssueAccess {
		// What is handed on is what was there; a token of TokenRequest goes on whatever becomes of the
		// credential that asked for it.
		depends = append(depends, cluster.Spec.Access, resolution.SecretVersion())
	}
	return digest(depends)
}

func digest(of any) string {
	text, err := json.Marshal(of)
	if err != nil {
		return "" // none of our types can bring it about
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// Read returns what a Secret holds; nil if that is not, or not any more, what was written.
func Read(secret *corev1.Secret) *Credential {
	h := &Credential{Data: map[string][]byte{}}
	if json.Unmarshal([]byte(secret.Annotations[v1alpha1.AnnotationCredential]), &h.Record) != nil {
		return nil
	}
	for _, key := range h.Keys {
		h.Data[key] = secret.Data[key]
	}
	if h.Digest == "" || h.Digest != h.digest() {
		return nil
	}
	return h
}

func (h *Credential) digest() string {
	return digest([]any{h.Source, h.IssuedAt, h.NotAfter, h.RenewAt, h.Data})
}

// Mine reports whether the request may write and delete the Secret: it has made it, or the Secret's
// label says so. What another object controls is that one's, whatever its label says.
func Mine(secret *corev1.Secret, request *v1alpha1.CredentialRequest) bool {
	if controller := metav1.GetControllerOf(secret); controller != nil {
		return controller.UID == request.UID
	}
	return secret.Labels[v1alpha1.LabelCredentialRequest] == request.Name
}

// Desired returns the Secret with what h holds: a changed copy of the one that is there, or a new
// one if existing is nil. What others have added to it stays.
func Desired(existing *corev1.Secret, request *v1alpha1.CredentialRequest, h *Credential) *corev1.Secret {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: request.Namespace, Name: request.Spec.Secret.Name},
		Type:       corev1.SecretTypeOpaque,
	}
	if existing != nil {
		secret = existing.DeepCopy()
		withdraw(secret)
	}
	labels := maps.Clone(request.Spec.Secret.Labels)
	labels = with(labels, v1alpha1.LabelCredentialRequest, request.Name)
	if request.Spec.Type == v1alpha1.CredentialArgoCD {
		labels = with(labels, labelArgoCD, labelArgoCDValue)
	}
	note := h.Record
	note.Digest = h.digest()
	note.Keys = sortedKeys(h.Data)
	note.Labels = sortedKeys(labels)
	note.Annotations = sortedKeys(request.Spec.Secret.Annotations)
	text, err := json.Marshal(note)
	if err != nil {
		text = nil // a record can be marshalled
	}
	for key, value := range labels {
		secret.Labels = with(secret.Labels, key, value)
	}
	for key, value := range request.Spec.Secret.Annotations {
		secret.Annotations = with(secret.Annotations, key, value)
	}
	secret.Annotations = with(secret.Annotations, v1alpha1.AnnotationCredential, string(text))
	for key, value := range h.Data {
		secret.Data = with(secret.Data, key, value)
	}
	if metav1.GetControllerOf(secret) == nil {
		owner := *metav1.NewControllerRef(request, v1alpha1.GroupVersion.WithKind("CredentialRequest"))
		owner.BlockOwnerDeletion = nil
		secret.OwnerReferences = append(secret.OwnerReferences, owner)
	}
	return secret
}

// withdraw takes away what was set the last time.
func withdraw(secret *corev1.Secret) {
	var last Record
	if json.Unmarshal([]byte(secret.Annotations[v1alpha1.AnnotationCredential]), &last) != nil {
		return
	}
	for _, key := range last.Keys {
		delete(secret.Data, key)
	}
	for _, key := range last.Labels {
		delete(secret.Labels, key)
	}
	for _, key := range last.Annotations {
		delete(secret.Annotations, key)
	}
}

// Same reports whether nothing that Keyferry sets differs.
func Same(a, b *corev1.Secret) bool {
	return maps.EqualFunc(a.Data, b.Data, bytes.Equal) && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) &&
		len(a.OwnerReferences) == len(b.OwnerReferences)
}

func with[V any](m map[string]V, key string, value V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[key] = value
	return m
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
