package resolve

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/endpoint/endpointtest"
	"github.com/keyferry/keyferry/providers"
)

// TestResolveSpec checks that the Secret of a provider, which contains no endpoint, is not needed
// for endpoint and delivery.
func TestResolveSpec(t *testing.T) {
	authority := []byte(endpointtest.CertificateAuthority)
	ack := v1alpha1.Access{Type: v1alpha1.AccessACK, ACK: &v1alpha1.ACKAccess{
		ClusterID: "c5b5e80b0b64a4bf6939d2d8fbbc50000", Region: "cn-hangzhou", Credentials: v1alpha1.SecretReference{Name: "tenant-1"},
	}}
	spider := func(url string) v1alpha1.Access {
		return v1alpha1.Access{Type: v1alpha1.AccessSpider, Spider: &v1alpha1.SpiderAccess{
			URL: url, Cluster: "tenant-1", Connection: "aws", Credentials: &v1alpha1.SecretReference{Name: "tenant-1"},
		}}
	}
	for name, test := range map[string]struct {
		access    v1alpha1.Access
		authority []byte
		delivery  v1alpha1.Delivery
		warned    bool
		reason    string
	}{
		"client certificates":   {access: ack, authority: authority, delivery: v1alpha1.DeliveryProxy},
		"no CA":                 {access: ack, delivery: v1alpha1.DeliveryProxy, reason: ReasonNoCertificateAuthority},
		"tokens":                {access: spider("https://spider.example.com"), authority: authority, delivery: v1alpha1.DeliveryDirect},
		"plain http":            {access: spider("http://spider.example.com"), authority: authority, delivery: v1alpha1.DeliveryDirect, warned: true},
		"host that is metadata": {access: spider("https://169.254.169.254"), authority: authority, reason: ReasonAddressRefused},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := &v1alpha1.TargetCluster{Spec: v1alpha1.TargetClusterSpec{
				Endpoint: &v1alpha1.Endpoint{Server: "https://203.0.113.7", CertificateAuthorityData: test.authority},
				Access:   test.access,
				Issue:    v1alpha1.Issue{Type: v1alpha1.IssueAccess},
			}}
			cluster.Namespace, cluster.Name = "fleet", "tenant-1"
			r := New(Config{Now: time.Now})
			check := func(what string, got Resolution, err error) {
				t.Helper()
				invalid, _ := errors.AsType[*InvalidError](err)
				if invalid == nil {
					invalid = &InvalidError{}
				}
				if got.Delivery != test.delivery || (got.Warning != "") != test.warned || invalid.Reason != test.reason {
					t.Errorf("%s: delivery %q (%s), warning %q, reason %q, %v", what, got.Delivery, got.DeliveryReason, got.Warning, invalid.Reason, err)
				}
			}
			secret := Secret{
				Name: types.NamespacedName{Namespace: "fleet", Name: "tenant-1"}, Type: corev1.SecretTypeOpaque,
				Data: map[string][]byte{"token": []byte("planted"), "accessKeyID": []byte("id"), "accessKeySecret": []byte("planted")},
			}
			got, err := r.Resolve(cluster, Given{Secret: secret, Keep: func(p providers.Provider) providers.Provider { return p }})
			check("with the Secret", got, err)
			got, err = r.ResolveSpec(cluster, nil)
			check("without the Secret", got, err)
		})
	}
}
