package resolve

import (
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/providers/exec"
)

// TestEachFieldOfAccessHasARow: a provider of the API that the table does not have could never be
// resolved, and a row that reads the field of another would read its Secret.
func TestEachFieldOfAccessHasARow(t *testing.T) {
	fields := reflect.TypeFor[v1alpha1.Access]()
	for i := range fields.NumField() {
		field := fields.Field(i)
		if field.Type.Kind() != reflect.Pointer {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		var access v1alpha1.Access
		reflect.ValueOf(&access).Elem().Field(i).Set(reflect.New(field.Type.Elem()))
		var set []string
		for _, r := range table() {
			if r.field != "" && r.isSet(access) {
				set = append(set, r.field)
				access.Type = r.accessType
			}
		}
		if len(set) != 1 || set[0] != name {
			t.Errorf("spec.access.%s is the field of the rows %q, want one of the same name", name, set)
		}
		if secret, path := AccessSecret(access); secret != "" || path != "" && !strings.HasPrefix(path, "spec.access."+name+".") {
			t.Errorf("the Secret of an empty spec.access.%s is %q at %s", name, secret, path)
		}
		if secret, _ := AccessSecret(v1alpha1.Access{Type: access.Type}); secret != "" {
			t.Errorf("type %s without its field has the Secret %q", access.Type, secret)
		}
	}
}

// TestHostedProvidersHaveAHostField: the message about a host that the policy rejects contains the
// hostField of the row, so a row has one if and only if its provider implements providers.Hosted.
func TestHostedProvidersHaveAHostField(t *testing.T) {
	const kubeconfig = "{current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], " +
		"clusters: [{name: a, cluster: {server: 'https://203.0.113.7:6443'}}], users: [{name: a, user: {token: t}}]}"
	accesses := map[v1alpha1.AccessType]v1alpha1.Access{
		v1alpha1.AccessKubeconfig: {Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "a"}},
		v1alpha1.AccessEKS:        {EKS: &v1alpha1.EKSAccess{ClusterName: "a", Region: "eu-central-1", Identity: v1alpha1.IdentityAmbient}},
		v1alpha1.AccessGKE:        {GKE: &v1alpha1.GKEAccess{Identity: v1alpha1.IdentityAmbient}},
		v1alpha1.AccessAKS: {AKS: &v1alpha1.AKSAccess{
			Identity: v1alpha1.IdentityWorkload, ClientID: "00000000-0000-0000-0000-000000000001", TenantID: "00000000-0000-0000-0000-000000000002",
		}},
		v1alpha1.AccessACK:       {ACK: &v1alpha1.ACKAccess{ClusterID: "c" + strings.Repeat("0", 32), Region: "cn-hangzhou"}},
		v1alpha1.AccessNCP:       {NCP: &v1alpha1.NCPAccess{ClusterUUID: "00000000-0000-0000-0000-000000000001", Region: "KR"}},
		v1alpha1.AccessSpider:    {Spider: &v1alpha1.SpiderAccess{URL: "https://spider.example.com", Cluster: "a", Connection: "a"}},
		v1alpha1.AccessTumblebug: {Tumblebug: &v1alpha1.TumblebugAccess{URL: "https://tumblebug.example.com", Namespace: "a", Cluster: "a"}},
	}
	data := map[v1alpha1.AccessType]map[string][]byte{
		v1alpha1.AccessKubeconfig: {"kubeconfig": []byte(kubeconfig)},
		v1alpha1.AccessACK:        {"accessKeyID": []byte("a"), "accessKeySecret": []byte("b")},
		v1alpha1.AccessNCP:        {"accessKey": []byte("a"), "secretKey": []byte("b")},
	}
	r := New(Config{Policy: endpoint.Policy{AmbientNamespaces: []string{"fleet"}}})
	for _, row := range table() {
		var provider providers.Provider
		switch access, found := accesses[row.accessType]; {
		case found:
			cluster := &v1alpha1.TargetCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "a"}, Spec: v1alpha1.TargetClusterSpec{Access: access}}
			constructed, err := row.newAccess(r, cluster, Secret{Name: types.NamespacedName{Namespace: "fleet", Name: "a"}, Data: data[row.accessType]}, Fleet{})
			if err != nil {
				t.Errorf("%s: %v", row.accessType, err)
				continue
			}
			provider = constructed.provider
		case row.accessType == v1alpha1.AccessExec:
			provider = (*exec.Provider)(nil)
		case row.accessType != v1alpha1.AccessNone:
			t.Errorf("access type %s: add an example to this test", row.accessType)
			continue
		}
		if _, hosted := provider.(providers.Hosted); hosted != (row.hostField != "") {
			t.Errorf("access type %s: hostField is %q, but the provider implements Hosted: %t", row.accessType, row.hostField, hosted)
		}
	}
}
