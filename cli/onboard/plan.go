// Package onboard registers another cluster as a TargetCluster: it makes the access account in the
// target, and Secret and TargetCluster in the management cluster.
package onboard

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/endpoint"
)

const (
	// AccessNamespace is the target's namespace for the ServiceAccounts that Keyferry authenticates
	// as, and their tokens.
	AccessNamespace = "keyferry"
	// PodsNamespace is the target's namespace for the ServiceAccounts that Pods become, unless another
	// one is named.
	PodsNamespace = "keyferry-pods"

	// secretKey is the key of the kubeconfig in the Secret of the management cluster.
	secretKey = "kubeconfig"
)

// Request is what is to be made.
type Request struct {
	// Name is the TargetCluster.
	Name types.NamespacedName
	// Owner marks the objects in the target: the management cluster's ID, and the TargetCluster.
	Owner string
	// Access is how Keyferry authenticates to the target; nil is a kubeconfig of an account that is
	// made for it.
	Access *v1alpha1.Access
	// Account is the target's ServiceAccount that Pods become. Empty with Mirror; else the default is
	// one of its own in PodsNamespace.
	Account types.NamespacedName
	// Mirror are the namespaces whose Pods become the target's ServiceAccount of the same namespace
	// and name.
	Mirror []string
	// Create lets Keyferry create the ServiceAccounts that Pods become.
	Create bool
	// Role is a ClusterRole of the target that Account gets in the whole target; empty for none.
	Role string
}

// Complete sets defaults, and refuses what makes no sense.
func (r *Request) Complete() error {
	if r.Account.Name == "" && len(r.Mirror) == 0 {
		r.Account = r.ownAccount()
	}
	switch {
	case len(validation.IsDNS1123Subdomain(r.accountName())) > 0:
		return fmt.Errorf("TargetCluster %s: the name is too long for a ServiceAccount %s in the target: choose a shorter name", r.Name, r.accountName())
	case len(r.Mirror) > 0 && r.Account.Name != "":
		return errors.New("--service-account and --mirror exclude each other: remove one of them")
	case len(r.Mirror) > 0 && r.Role != "":
		return errors.New("--role needs one ServiceAccount: with --mirror, bind roles to the target's own ServiceAccounts")
	case r.Account.Namespace == AccessNamespace, slices.Contains(r.Mirror, AccessNamespace):
		return fmt.Errorf("the target's namespace %s contains the ServiceAccounts with which Keyferry authenticates: Pods must not act as these ServiceAccounts", AccessNamespace)
	}
	for _, namespace := range r.Mirror {
		if len(validation.IsDNS1123Label(namespace)) > 0 {
			return fmt.Errorf("--mirror %.64q is not a valid namespace", namespace)
		}
	}
	return nil
}

// ownAccount is the ServiceAccount that the Pods of no other TargetCluster become.
func (r *Request) ownAccount() types.NamespacedName {
	return types.NamespacedName{Namespace: PodsNamespace, Name: r.accountName()}
}

// accountName is the name of objects in the target. A namespace has no dots, so two TargetClusters
// never have the same.
func (r *Request) accountName() string { return r.Name.Namespace + "." + r.Name.Name }

// TokenSecret is the name of the first Secret with an access token, in AccessNamespace of the
// target.
func (r *Request) TokenSecret() string { return r.accountName() }

// rbacName is the name of RBAC objects in the target.
func (r *Request) rbacName() string { return "keyferry:" + r.accountName() }

// usable are objects of the target that are used as they are if they exist.
func (r *Request) usable() []client.Object {
	namespace := func(name string) client.Object {
		return &corev1.Namespace{TypeMeta: typeMeta(corev1.SchemeGroupVersion.String(), "Namespace"), ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	objects := []client.Object{namespace(AccessNamespace)}
	if r.Account.Name != "" {
		objects = append(objects, namespace(r.Account.Namespace))
		if !r.Create {
			account := r.serviceAccount(r.Account)
			if r.Account != r.ownAccount() {
				account.Annotations = nil // other TargetClusters may have it, too, so it stays when this one is removed
			}
			objects = append(objects, account)
		}
	}
	return objects
}

// owned are the objects of the target that are made for this TargetCluster. token is the name of
// the Secret with the access token.
func (r *Request) owned(token string) []client.Object {
	access := types.NamespacedName{Namespace: AccessNamespace, Name: r.accountName()}
	objects := []client.Object{r.serviceAccount(access), r.tokenSecret(token)}
	namespaces, names := r.Mirror, []string(nil)
	if r.Account.Name != "" {
		namespaces, names = []string{r.Account.Namespace}, []string{r.Account.Name}
	}
	for _, namespace := range namespaces {
		rules := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: names, Verbs: []string{"create"}}}
		if r.Create {
			rules = append(rules,
				rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, ResourceNames: names, Verbs: []string{"get"}},
				// RBAC cannot limit create to a name.
				rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"create"}})
		}
		meta := r.meta(namespace, r.rbacName())
		objects = append(objects,
			&rbacv1.Role{TypeMeta: typeMeta(rbacv1.SchemeGroupVersion.String(), "Role"), ObjectMeta: meta, Rules: rules},
			&rbacv1.RoleBinding{
				TypeMeta: typeMeta(rbacv1.SchemeGroupVersion.String(), "RoleBinding"), ObjectMeta: meta,
				RoleRef: roleRef("Role", r.rbacName()), Subjects: subject(access),
			})
	}
	// By the UID of kube-system, Keyferry notices that another cluster answers at the address.
	objects = append(objects,
		&rbacv1.ClusterRole{
			TypeMeta: typeMeta(rbacv1.SchemeGroupVersion.String(), "ClusterRole"), ObjectMeta: r.meta("", r.rbacName()),
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"namespaces"}, ResourceNames: []string{metav1.NamespaceSystem}, Verbs: []string{"get"}}},
		},
		r.clusterRoleBinding(r.rbacName(), r.rbacName(), access))
	if r.Role != "" {
		// With the role in the name, since the API server does not let a binding change its role.
		objects = append(objects, r.clusterRoleBinding(r.rbacName()+":pods:"+r.Role, r.Role, r.Account))
	}
	return objects
}

// tokenSecret is filled by the target's control plane with a token of the access account that does
// not expire.
func (r *Request) tokenSecret(name string) *corev1.Secret {
	meta := r.meta(AccessNamespace, name)
	meta.Annotations[corev1.ServiceAccountNameKey] = r.accountName()
	return &corev1.Secret{TypeMeta: typeMeta(corev1.SchemeGroupVersion.String(), "Secret"), ObjectMeta: meta, Type: corev1.SecretTypeServiceAccountToken}
}

func (r *Request) serviceAccount(name types.NamespacedName) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{TypeMeta: typeMeta(corev1.SchemeGroupVersion.String(), "ServiceAccount"), ObjectMeta: r.meta(name.Namespace, name.Name)}
}

func (r *Request) clusterRoleBinding(name, role string, account types.NamespacedName) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		TypeMeta: typeMeta(rbacv1.SchemeGroupVersion.String(), "ClusterRoleBinding"), ObjectMeta: r.meta("", name),
		RoleRef: roleRef("ClusterRole", role), Subjects: subject(account),
	}
}

func (r *Request) meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{managed.OwnerAnnotation: r.Owner}}
}

func typeMeta(apiVersion, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}
}

func roleRef(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func subject(account types.NamespacedName) []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}}
}

// secret is the Secret of the management cluster that the TargetCluster names.
func (r *Request) secret(kubeconfig []byte) *corev1.Secret {
	return &corev1.Secret{
		TypeMeta:   typeMeta(corev1.SchemeGroupVersion.String(), "Secret"),
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Name.Namespace, Name: r.Name.Name},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{secretKey: kubeconfig},
	}
}

// targetCluster has the server of the endpoint, too, so that the controller reconciles it as soon
// as the server changes: it does not watch Secrets.
func (r *Request) targetCluster(e endpoint.Endpoint) *v1alpha1.TargetCluster {
	account := v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountMirror}
	if r.Account.Name != "" {
		account = v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: r.Account.Namespace, Name: r.Account.Name}
	}
	access := v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: r.Name.Name}}
	at := &v1alpha1.Endpoint{Server: e.Server}
	if r.Access != nil { // there is no kubeconfig with the rest of the endpoint
		access = *r.Access
		at.CertificateAuthorityData, at.TLSServerName, at.ProxyURL = e.CertificateAuthority, e.TLSServerName, e.ProxyURL
	}
	if e.SystemRoots {
		at.WellKnownCACertificates = v1alpha1.WellKnownCACertificatesSystem
	}
	return &v1alpha1.TargetCluster{
		TypeMeta:   typeMeta(v1alpha1.GroupVersion.String(), "TargetCluster"),
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Name.Namespace, Name: r.Name.Name},
		Spec: v1alpha1.TargetClusterSpec{
			Endpoint: at,
			Access:   access,
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: account, Create: r.Create,
			}},
		},
	}
}

// kubeconfig is that of the access account.
func (r *Request) kubeconfig(e endpoint.Endpoint, token string) ([]byte, error) {
	return clientcmd.Write(clientcmdapi.Config{
		CurrentContext: r.Name.Name,
		Clusters: map[string]*clientcmdapi.Cluster{r.Name.Name: {
			Server: e.Server, CertificateAuthorityData: e.CertificateAuthority, TLSServerName: e.TLSServerName, ProxyURL: e.ProxyURL,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{r.accountName(): {Token: token}},
		Contexts:  map[string]*clientcmdapi.Context{r.Name.Name: {Cluster: r.Name.Name, AuthInfo: r.accountName()}},
	})
}
