// Package targetinfo describes registered TargetClusters: how Keyferry authenticates to the target,
// who Pods are there, and which ServiceAccounts may use them. It reads no Secret.
package targetinfo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/cli/status"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer/resolve"
)

// ErrNoTargetClusters is the error for a cluster that does not have Keyferry's CRDs.
var ErrNoTargetClusters = errors.New("this cluster does not have the resource TargetCluster: install Keyferry, or select another cluster with --context")

// Summary describes a TargetCluster in one line.
type Summary struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Ready is the status of the condition Ready, with its reason. It is Unknown until the controller
	// has reconciled the current spec.
	Ready  metav1.ConditionStatus `json:"ready"`
	Reason string                 `json:"reason,omitempty"`
	// Access is the access type.
	Access v1alpha1.AccessType `json:"access"`
	// Identity says who Pods are in the target.
	Identity string `json:"identity"`
	Endpoint string `json:"endpoint,omitempty"`
	// Managed is true if keyferry target add made the TargetCluster.
	Managed bool `json:"managed"`
}

// Details describes a TargetCluster completely.
type Details struct {
	Summary
	// Secret has the access credential; empty if there is none.
	Secret        string `json:"secret,omitempty"`
	Delivery      string `json:"delivery,omitempty"`
	ServerVersion string `json:"serverVersion,omitempty"`
	ClusterUID    string `json:"clusterUID,omitempty"`
	// Conditions are empty until the controller has reconciled the current spec.
	Conditions []metav1.Condition `json:"conditions"`
	// Granted are the ServiceAccounts that keyferry grant allows to use it, as NAMESPACE/NAME.
	Granted []string `json:"granted"`
	// Users are the Pods and CredentialRequests that use it.
	Users []status.User `json:"users"`
	// Incomplete are sentences about what could not be read.
	Incomplete []string `json:"incomplete,omitempty"`
}

// List returns the TargetClusters of a namespace; of all namespaces if it is empty.
func List(ctx context.Context, reader client.Reader, namespace string) ([]Summary, error) {
	list := &v1alpha1.TargetClusterList{}
	if err := reader.List(ctx, list, client.InNamespace(namespace)); meta.IsNoMatchError(err) {
		return nil, ErrNoTargetClusters
	} else if err != nil {
		return nil, fmt.Errorf("reading TargetClusters: %w", err)
	}
	summaries := make([]Summary, len(list.Items))
	for i := range list.Items {
		summaries[i] = summarize(&list.Items[i])
	}
	slices.SortFunc(summaries, func(a, b Summary) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return summaries, nil
}

// Read returns the details of one TargetCluster.
func Read(ctx context.Context, reader client.Reader, name types.NamespacedName) (Details, error) {
	report, err := status.Read(ctx, reader, status.Scope{Namespace: name.Namespace, Names: []types.NamespacedName{name}})
	if err != nil {
		return Details{}, err
	}
	tc := &v1alpha1.TargetCluster{}
	if err := reader.Get(ctx, name, tc); err != nil {
		return Details{}, fmt.Errorf("reading TargetCluster %s: %w", name, err)
	}
	d := Describe(tc)
	d.Incomplete = report.Incomplete
	for _, target := range report.Targets {
		d.Users = append(d.Users, target.Users...)
	}
	bindings, err := Bindings(ctx, reader, name)
	switch {
	case apierrors.IsForbidden(err):
		d.Incomplete = append(d.Incomplete, fmt.Sprintf("the ServiceAccounts that may use the TargetCluster are not listed: %v", err))
	case err != nil:
		return Details{}, err
	}
	for i := range bindings {
		for _, s := range bindings[i].Subjects {
			d.Granted = append(d.Granted, s.Namespace+"/"+s.Name)
		}
	}
	slices.Sort(d.Granted)
	return d, nil
}

// Describe returns what the TargetCluster itself says: Details without grants and users.
func Describe(tc *v1alpha1.TargetCluster) Details {
	d := Details{
		Summary:  summarize(tc),
		Delivery: string(tc.Status.Delivery), ServerVersion: tc.Status.ServerVersion, ClusterUID: string(tc.Status.ClusterUID),
		Conditions: []metav1.Condition{}, Granted: []string{}, Users: []status.User{},
	}
	d.Secret, _ = resolve.AccessSecret(tc.Spec.Access)
	if tc.Status.ObservedGeneration == tc.Generation {
		d.Conditions = append(d.Conditions, tc.Status.Conditions...)
	}
	return d
}

// Bindings returns the RoleBindings of keyferry grant for one TargetCluster.
func Bindings(ctx context.Context, reader client.Reader, target types.NamespacedName) ([]rbacv1.RoleBinding, error) {
	list := &rbacv1.RoleBindingList{}
	if err := reader.List(ctx, list, client.InNamespace(target.Namespace), client.MatchingLabels{managed.Label: managed.Value}); err != nil {
		return nil, fmt.Errorf("reading RoleBindings in namespace %s: %w", target.Namespace, err)
	}
	role := use.RoleName(use.TargetCluster(target))
	return slices.DeleteFunc(list.Items, func(b rbacv1.RoleBinding) bool {
		return b.RoleRef.Kind != "Role" || b.RoleRef.Name != role
	}), nil
}

func summarize(tc *v1alpha1.TargetCluster) Summary {
	s := Summary{
		Namespace: tc.Namespace, Name: tc.Name, Access: tc.Spec.Access.Type, Identity: identity(&tc.Spec.Issue),
		Endpoint: tc.Status.Endpoint, Managed: managed.Is(tc, ""),
	}
	s.Ready, s.Reason, _ = status.Readiness(tc.Status.Conditions, tc.Status.ObservedGeneration < tc.Generation)
	return s
}

// identity says who Pods are in the target.
func identity(issue *v1alpha1.Issue) string {
	switch {
	case issue.TokenRequest != nil && issue.TokenRequest.ServiceAccount.Type == v1alpha1.ServiceAccountFixed:
		return "ServiceAccount " + issue.TokenRequest.ServiceAccount.Namespace + "/" + issue.TokenRequest.ServiceAccount.Name
	case issue.TokenRequest != nil:
		return "ServiceAccount of the same namespace and name"
	case issue.ClientCertificate != nil:
		return "user of a client certificate"
	case issue.Federation != nil:
		return "their own ServiceAccount, by federation"
	}
	return "the identity of the access credential"
}
