package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Lock denies credentials to a subject in its namespace: a Pod, a ServiceAccount, a TargetCluster,
// a ClusterProfile, or everything in the namespace. While a Lock exists and has not expired,
// Keyferry denies new Pods, issues no credential, and deletes the Secrets of CredentialRequests.
// Access returns when the Lock is deleted or expires.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=keyferry
// +kubebuilder:printcolumn:name="Subject",type=string,JSONPath=`.spec.subject.type`
// +kubebuilder:printcolumn:name="Subject-Name",type=string,JSONPath=`.spec.subject.name`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.spec.reason`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expirationTimestamp`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Lock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec describes the locked subject, the reason, and the expiry.
	// +required
	Spec LockSpec `json:"spec"`
}

// LockList is a list of Locks.
//
// +kubebuilder:object:root=true
type LockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Lock `json:"items"`
}

// ClusterLock denies credentials to a subject in any namespace, or to the whole cluster. Users who
// may write Locks in a namespace cannot remove a ClusterLock.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=keyferry
// +kubebuilder:printcolumn:name="Subject",type=string,JSONPath=`.spec.subject.type`
// +kubebuilder:printcolumn:name="Subject-Namespace",type=string,JSONPath=`.spec.subject.namespace`
// +kubebuilder:printcolumn:name="Subject-Name",type=string,JSONPath=`.spec.subject.name`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.spec.reason`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expirationTimestamp`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ClusterLock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec describes the locked subject, the reason, and the expiry.
	// +required
	Spec ClusterLockSpec `json:"spec"`
}

// ClusterLockList is a list of ClusterLocks.
//
// +kubebuilder:object:root=true
type ClusterLockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterLock `json:"items"`
}

// LockSpec is the subject of a Lock, why it is locked, and until when.
type LockSpec struct {
	// Subject is the locked subject, in the namespace of the Lock.
	// +required
	Subject LockSubject `json:"subject"`

	LockTerms `json:",inline"`
}

// ClusterLockSpec is the subject of a ClusterLock, why it is locked, and until when.
type ClusterLockSpec struct {
	// Subject is the locked subject.
	// +required
	Subject ClusterLockSubject `json:"subject"`

	LockTerms `json:",inline"`
}

// LockTerms are why a subject is locked, and until when.
type LockTerms struct {
	// Reason is the reason for the lock, such as the name of an incident. Users whose Pods are denied
	// see it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	// +required
	Reason string `json:"reason"`

	// ExpirationTimestamp is the time at which the lock expires. Default: the lock is in effect until
	// it is deleted.
	// +optional
	ExpirationTimestamp *metav1.Time `json:"expirationTimestamp,omitempty"`
}

// LockSubjectType selects the subject of a lock.
//
// +kubebuilder:validation:Enum=Pod;ServiceAccount;TargetCluster;ClusterProfile;Everything
type LockSubjectType string

// The subjects of a lock.
const (
	// LockPod locks a Pod, and every later Pod of the same name.
	LockPod LockSubjectType = "Pod"
	// LockServiceAccount locks the Pods and the CredentialRequests of a ServiceAccount.
	LockServiceAccount LockSubjectType = "ServiceAccount"
	// LockTargetCluster locks a TargetCluster for all its users.
	LockTargetCluster LockSubjectType = "TargetCluster"
	// LockClusterProfile locks a ClusterProfile, and the TargetClusters that name it, for all users.
	LockClusterProfile LockSubjectType = "ClusterProfile"
	// LockEverything locks the Pods, CredentialRequests, TargetClusters and ClusterProfiles of a
	// namespace, or of the whole cluster.
	LockEverything LockSubjectType = "Everything"
)

// LockSubject is the subject of a Lock.
//
// +kubebuilder:validation:XValidation:rule="has(self.name) == (self.type != 'Everything')",message="name is required, and must be empty when type is Everything"
type LockSubject struct {
	// Type selects the subject. Pod: the Pod of that name. ServiceAccount: the Pods and
	// CredentialRequests of the ServiceAccount. TargetCluster or ClusterProfile: all users of the
	// object, in all namespaces. Everything: the Pods and CredentialRequests of the namespace, and all
	// users of the namespace's TargetClusters and ClusterProfiles.
	// +required
	Type LockSubjectType `json:"type"`

	// Name of the subject. Required unless type is Everything.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +optional
	Name string `json:"name,omitempty"`
}

// ClusterLockSubject is the subject of a ClusterLock.
//
// +kubebuilder:validation:XValidation:rule="has(self.name) == (self.type != 'Everything')",message="name is required, and must be empty when type is Everything"
// +kubebuilder:validation:XValidation:rule="has(self.__namespace__) || self.type == 'Everything'",message="namespace is required, except when type is Everything: then a ClusterLock without a namespace locks the whole cluster"
type ClusterLockSubject struct {
	// Type selects the subject. Pod: the Pod of that name. ServiceAccount: the Pods and
	// CredentialRequests of the ServiceAccount. TargetCluster or ClusterProfile: all users of the
	// object, in all namespaces. Everything: the Pods and CredentialRequests of the namespace, and all
	// users of the namespace's TargetClusters and ClusterProfiles. Everything without a namespace: the
	// whole cluster.
	// +required
	Type LockSubjectType `json:"type"`

	// Namespace of the subject. Required unless type is Everything. Default with type Everything: the
	// whole cluster.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +optional
	Namespace string `json:"namespace,omitempty"`

	// Name of the subject. Required unless type is Everything.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +optional
	Name string `json:"name,omitempty"`
}

// ReasonLocked is the reason of ConditionIssued if a Lock or ClusterLock denies the credential.
const ReasonLocked = "Locked"
