package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/providers/eks/ststest"
)

// kind is a combination of access and issue types.
type kind struct {
	name string
	// spec is that of a TargetCluster, and makes what that needs besides. Where nothing is said, the
	// endpoint is the target's, and its ServiceAccount's tokens are issued.
	spec func(f *fleet, name string) v1alpha1.TargetClusterSpec
	// secret is what the Secret of the TargetCluster's name holds; nil if it needs none.
	secret func(f *fleet, name string) map[string][]byte
	// audience is that of the Pod's own token that is exchanged; nil if none is.
	audience func(name string) string
	// local ones ask nobody, and can be broken by their Secrets only.
	local bool
	// rest is how long one that failed is left alone. Zero is 10 seconds.
	rest time.Duration
}

// kinds returns all kinds.
func kinds() []kind {
	return append(clouds(),
		kind{
			name: "kubeconfig", local: true,
			spec: func(_ *fleet, name string) v1alpha1.TargetClusterSpec {
				return by(v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: name}})
			},
			secret: func(_ *fleet, name string) map[string][]byte {
				return map[string][]byte{"kubeconfig": fmt.Appendf(nil, `{"current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],
"clusters":[{"name":"a","cluster":{"server":"https://a.example"}}],"users":[{"name":"a","user":{"token":%q}}]}`, planted+name)}
			},
		},
		kind{
			name: "ncp", local: true,
			spec: func(_ *fleet, name string) v1alpha1.TargetClusterSpec {
				return by(v1alpha1.Access{Type: v1alpha1.AccessNCP, NCP: &v1alpha1.NCPAccess{ClusterUUID: string(uuid.NewUUID()), Credentials: *ref(name)}})
			},
			secret: func(_ *fleet, name string) map[string][]byte {
				return map[string][]byte{"accessKey": []byte(name), "secretKey": []byte(planted + name)}
			},
		},
		kind{
			name: "spider",
			spec: func(f *fleet, name string) v1alpha1.TargetClusterSpec {
				return by(v1alpha1.Access{Type: v1alpha1.AccessSpider, Spider: &v1alpha1.SpiderAccess{URL: f.provider.URL, Cluster: name, Connection: "c", Credentials: ref(name)}})
			},
			secret: func(_ *fleet, name string) map[string][]byte {
				return map[string][]byte{"username": []byte(name), "password": []byte(planted + name)}
			},
		},
		kind{
			name: "tumblebug",
			spec: func(f *fleet, name string) v1alpha1.TargetClusterSpec {
				return by(v1alpha1.Access{Type: v1alpha1.AccessTumblebug, Tumblebug: &v1alpha1.TumblebugAccess{URL: f.provider.URL, Namespace: "ns", Cluster: name, Credentials: ref(name)}})
			},
			secret: func(_ *fleet, name string) map[string][]byte {
				return map[string][]byte{"token": []byte(planted + name)}
			},
		},
		kind{
			name: "exec", // one plugin for both, which is told by their ClusterProfiles which cluster it is
			spec: func(f *fleet, name string) v1alpha1.TargetClusterSpec {
				spec := by(v1alpha1.Access{Type: v1alpha1.AccessExec, Exec: &v1alpha1.ExecAccess{Provider: "plugin", RunIn: v1alpha1.RunInBroker}})
				spec.ClusterProfile = &v1alpha1.ObjectReference{Namespace: f.namespace, Name: f.createProfile(name)}
				return spec
			},
		},
		kind{
			name: "certificate", rest: 5 * time.Minute, // so long a request that failed is left for people to see
			spec: func(f *fleet, name string) v1alpha1.TargetClusterSpec {
				f.authorities[name] = newAuthority(f, name)
				spec := by(v1alpha1.Access{Type: v1alpha1.AccessNone})
				spec.Issue = v1alpha1.Issue{Type: v1alpha1.IssueClientCertificate, ClientCertificate: &v1alpha1.ClientCertificateIssue{
					IssuerRef: v1alpha1.CertificateIssuerReference{Name: name}, CommonName: "${namespace}:${serviceAccount}",
				}}
				return spec
			},
		},
	)
}

// clouds returns the kinds whose providers are on the Internet.
func clouds() []kind {
	return []kind{
		{
			name: "eks", local: true,
			spec: func(_ *fleet, name string) v1alpha1.TargetClusterSpec {
				return by(v1alpha1.Access{Type: v1alpha1.AccessEKS, EKS: &v1alpha1.EKSAccess{ClusterName: name, Region: "eu-central-1", Identity: v1alpha1.IdentitySecret, Credentials: ref(name)}})
			},
			secret: func(_ *fleet, name string) map[string][]byte {
				return map[string][]byte{"accessKeyID": []byte(name), "secretAccessKey": []byte(planted + name)}
			},
		},
		{
			name: "eks-workload",
			spec: func(f *fleet, name string) v1alpha1.TargetClusterSpec {
				role := "arn:aws:iam::" + ststest.Account + ":role/" + name
				f.sts.Trust[role] = []string{f.subject("sts.amazonaws.com")}
				return by(v1alpha1.Access{Type: v1alpha1.AccessEKS, EKS: &v1alpha1.EKSAccess{ClusterName: name, Region: "eu-central-1", Identity: v1alpha1.IdentityWorkload, RoleARN: role}})
			},
			audience: func(string) string { return "sts.amazonaws.com" },
		},
		{
			name: "gke",
			spec: func(_ *fleet, name string) v1alpha1.TargetClusterSpec {
				return by(v1alpha1.Access{Type: v1alpha1.AccessGKE, GKE: &v1alpha1.GKEAccess{Identity: v1alpha1.IdentitySecret, Credentials: ref(name)}})
			},
			secret: func(f *fleet, name string) map[string][]byte {
				return map[string][]byte{"key.json": googleKey(f, name)}
			},
		},
		{
			name: "gke-workload",
			spec: func(_ *fleet, name string) v1alpha1.TargetClusterSpec {
				return by(v1alpha1.Access{Type: v1alpha1.AccessGKE, GKE: &v1alpha1.GKEAccess{Identity: v1alpha1.IdentityWorkload, WorkloadIdentityProvider: pool(name)}})
			},
			audience: func(name string) string { return "https://iam.googleapis.com/" + pool(name) },
		},
		{
			name: "aks",
			spec: func(_ *fleet, name string) v1alpha1.TargetClusterSpec {
				return by(v1alpha1.Access{Type: v1alpha1.AccessAKS, AKS: &v1alpha1.AKSAccess{Identity: v1alpha1.IdentitySecret, Credentials: ref(name)}})
			},
			secret: func(f *fleet, name string) map[string][]byte {
				tenant := []byte(f.tenant(name))
				return map[string][]byte{"clientID": tenant, "tenantID": tenant, "clientSecret": []byte(planted + name)}
			},
		},
		{
			name: "aks-workload",
			spec: func(f *fleet, name string) v1alpha1.TargetClusterSpec {
				tenant := f.tenant(name)
				return by(v1alpha1.Access{Type: v1alpha1.AccessAKS, AKS: &v1alpha1.AKSAccess{Identity: v1alpha1.IdentityWorkload, ClientID: tenant, TenantID: tenant}})
			},
			audience: func(string) string { return "api://AzureADTokenExchange" },
		},
	}
}

func by(access v1alpha1.Access) v1alpha1.TargetClusterSpec {
	return v1alpha1.TargetClusterSpec{Access: access}
}

func ref(name string) *v1alpha1.SecretReference { return &v1alpha1.SecretReference{Name: name} }

// pool returns a workload identity provider in the pool with that name.
func pool(name string) string {
	return "projects/1/locations/global/workloadIdentityPools/" + name + "/providers/management"
}

// tenant returns a tenant and an application of Entra.
func (f *fleet) tenant(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, of := range f.tenants {
		if of == name {
			return id
		}
	}
	id := string(uuid.NewUUID())
	f.tenants[id] = name
	return id
}

func googleKey(f *fleet, name string) []byte {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(f.t, err)
	f.keys[name] = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "private_key": f.keys[name], "client_email": name + "@project.iam.gserviceaccount.com", "token_uri": "https://" + googleKeys + "/token",
	})
	must(f.t, err)
	return text
}

// createProfile creates a ClusterProfile for the target with that name.
func (f *fleet) createProfile(name string) string {
	profile := &inventory.ClusterProfile{ObjectMeta: f.meta(name), Spec: inventory.ClusterProfileSpec{ClusterManager: inventory.ClusterManager{Name: "test"}}}
	must(f.t, f.Create(f.t.Context(), profile))
	target := f.endpoint(name)
	profile.Status.AccessProviders = []inventory.AccessProvider{{Name: "plugin", Cluster: clientcmdv1.Cluster{
		Server: target.Server, CertificateAuthorityData: target.CertificateAuthorityData,
		Extensions: []clientcmdv1.NamedExtension{{
			Name:      "clusterprofiles.multicluster.x-k8s.io/exec/additional-envs",
			Extension: runtime.RawExtension{Raw: fmt.Appendf(nil, `{"CLUSTER":%q}`, name)},
		}},
	}}}
	must(f.t, f.Status().Update(f.t.Context(), profile))
	return name
}

// authority is a CA for the client certificates of one target.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(f *fleet, name string) authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(f.t, err)
	return authority{key: key, certificate: &x509.Certificate{Subject: pkix.Name{CommonName: name}}}
}

// sign returns a certificate for a PEM certificate request. The certificate is valid from now on.
func (a authority) sign(request []byte, now time.Time) ([]byte, error) {
	block, _ := pem.Decode(request)
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: asked.Subject, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.certificate, asked.PublicKey, a.key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}
