// Package wire is the protocol between the broker and those who ask it: a path, a request and an
// answer.
//
// The answer is an ExecCredential (client.authentication.k8s.io/v1, as in
// https://kubernetes.io/docs/reference/config-api/client-authentication.v1/), whose cluster config
// holds Config, and an error is a metav1.Status. They are written out here with the standard
// library only, because the refresher, which reads them, runs in every Pod.
package wire

import (
	"encoding/json"
	"net/url"
	"time"
)

const (
	// Audience of the projected token that a Pod presents.
	Audience = "keyferry"
	// APIVersion of ExecCredential.
	APIVersion = "client.authentication.k8s.io/v1"
	// Kind of ExecCredential.
	Kind = "ExecCredential"

	// HeaderRefused of a request has the ETag of an answer whose credential the target does not take,
	// though it has not ended. A header, because a broker that does not know it goes on as without.
	HeaderRefused = "Keyferry-Refused"

	// HeaderExpiresIn of a request is the number of seconds after which the client's credential
	// expires. In the last two minutes the broker calls a provider that failed sooner than the
	// provider asked for. A broker that does not know the header ignores it.
	HeaderExpiresIn = "Keyferry-Expires-In"
)

// TargetClusterPath is the path at which a credential for a TargetCluster is asked for, by POST.
func TargetClusterPath(namespace, name string) string {
	return "/v1/namespaces/" + url.PathEscape(namespace) + "/targetclusters/" + url.PathEscape(name) + "/credential"
}

// ClusterProfilePath is the path at which a credential for a ClusterProfile is asked for, by POST.
func ClusterProfilePath(namespace, name string) string {
	return "/v1/namespaces/" + url.PathEscape(namespace) + "/clusterprofiles/" + url.PathEscape(name) + "/credential"
}

// Request is the body of a request; {} is a whole one.
type Request struct {
	// SubjectToken is a token of the asking Pod for the provider's own audience.
	SubjectToken string `json:"subjectToken,omitempty"`
}

// ExecCredential is the answer. Spec.Cluster is always set; Status is, too, unless
// Config.PluginInPod says that it is not.
type ExecCredential struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       Spec   `json:"spec"`
	Status     Status `json:"status"`
}

// Spec of an ExecCredential.
type Spec struct {
	Cluster     Cluster `json:"cluster"`
	Interactive bool    `json:"interactive"`
}

// Cluster says where the credential is for.
type Cluster struct {
	Server                   string `json:"server"`
	TLSServerName            string `json:"tls-server-name,omitempty"`
	CertificateAuthorityData []byte `json:"certificate-authority-data,omitempty"`
	ProxyURL                 string `json:"proxy-url,omitempty"`
	Config                   Config `json:"config"`
}

// Config is what the refresher needs besides.
type Config struct {
	// Namespace is the content of the namespace file, unless the Pod says otherwise.
	Namespace string `json:"namespace"`
	// IssuedAt and RefreshAt are by the broker's clock; the Date header of the answer is, too.
	IssuedAt  time.Time `json:"issuedAt"`
	RefreshAt time.Time `json:"refreshAt"`
	// Delivery is DeliveryDirect or DeliveryProxy: what the endpoint and the credential need.
	Delivery string `json:"delivery"`
	// ClusterUID tells clusters behind the same name apart; empty if it is not known.
	ClusterUID string `json:"clusterUID,omitempty"`
	// SystemRoots is set if CertificateAuthorityData are all public CAs, and not one of the cluster.
	SystemRoots bool `json:"systemRoots,omitempty"`
	// PluginInPod says that there is no credential in the answer: the Pod has a plugin of its own for
	// it, which the Pod's spec names.
	PluginInPod bool `json:"pluginInPod,omitempty"`
	// PluginConfig is what the ClusterProfile has to tell that plugin: data, never anything to
	// execute.
	PluginConfig json.RawMessage `json:"pluginConfig,omitempty"`
}

// Values of Config.Delivery.
const (
	// DeliveryDirect: in-cluster clients can be told endpoint and credential as they are.
	DeliveryDirect = "Direct"
	// DeliveryProxy: they cannot, or should not.
	DeliveryProxy = "Proxy"
)

// Status holds a token, or a certificate and its key.
type Status struct {
	ExpirationTimestamp   time.Time `json:"expirationTimestamp"`
	Token                 string    `json:"token,omitempty"`
	ClientCertificateData string    `json:"clientCertificateData,omitempty"`
	ClientKeyData         string    `json:"clientKeyData,omitempty"`
}

// Error is what is read of a metav1.Status.
type Error struct {
	Message string `json:"message"`
	Reason  string `json:"reason,omitempty"`
	Code    int    `json:"code,omitempty"`
}
