package testenv

import (
	"net"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// Fleet is a namespace with the TargetCluster tenant-1, whose target is the tests' API server. Its
// Secret contains the administrator's kubeconfig. The ServiceAccount web may use the TargetCluster;
// it is also the ServiceAccount for which tokens are issued.
type Fleet struct {
	client.Client
	Namespace string
}

// NewFleet creates a Fleet.
func NewFleet(t testing.TB, cfg *rest.Config) *Fleet {
	t.Helper()
	c := NewClient(t, cfg)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "fleet-"}}
	must(t, c.Create(t.Context(), namespace))
	f := &Fleet{Client: c, Namespace: namespace.Name}
	kubeconfig, err := clientcmd.Write(Kubeconfig(cfg, ""))
	must(t, err)
	for _, object := range []client.Object{
		&corev1.ServiceAccount{ObjectMeta: f.Named("web")},
		&corev1.Secret{ObjectMeta: f.Named("access"), Data: map[string][]byte{"kubeconfig": kubeconfig}},
		f.targetCluster("tenant-1", "web"),
		&rbacv1.Role{ObjectMeta: f.Named("use"), Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"targetclusters"}, Verbs: []string{"use"},
		}}},
		&rbacv1.RoleBinding{
			ObjectMeta: f.Named("use"),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "use"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: f.Namespace, Name: "web"}},
		},
	} {
		must(t, c.Create(t.Context(), object))
	}
	return f
}

func (f *Fleet) targetCluster(name, serviceAccount string) *v1alpha1.TargetCluster {
	return &v1alpha1.TargetCluster{
		ObjectMeta: f.Named(name),
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "access"}},
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: f.Namespace, Name: serviceAccount},
			}},
		},
	}
}

// CreateBroken creates a TargetCluster that resolves but cannot issue, because its ServiceAccount
// "nobody" does not exist.
func (f *Fleet) CreateBroken(t testing.TB, name string) {
	t.Helper()
	must(t, f.Create(t.Context(), f.targetCluster(name, "nobody")))
}

// Named returns the metadata of an object in the fleet's namespace.
func (f *Fleet) Named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: f.Namespace, Name: name}
}

// Kubeconfig returns the administrator's kubeconfig. If as is not empty, it impersonates that user.
func Kubeconfig(cfg *rest.Config, as string) clientcmdapi.Config {
	return clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: cfg.Host, CertificateAuthorityData: cfg.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData, Impersonate: as}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}
}

// WriteKubeconfig writes the Kubeconfig to a file and returns its path, for $KUBECONFIG.
func WriteKubeconfig(t testing.TB, cfg *rest.Config, as string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(Kubeconfig(cfg, as), file))
	return file
}

// FreeAddress returns a loopback address with a port that was free a moment ago.
func FreeAddress(t testing.TB) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
