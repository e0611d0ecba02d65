// Package wire is the protocol between the broker and its clients: a path, a request and a
// response.
//
// The response is an ExecCredential (client.authentication.k8s.io/v1, as in
// https://kubernetes.io/docs/reference/config-api/client-authentication.v1/), whose cluster config
// is Config; an error is a metav1.Status. The types are declared here with the standard library
// only, because the refresher, which runs in every Pod, needs them.
package wire

import (
	"encoding/json"
	"net/url"
	"time"
)

const (
	// APIVersion of ExecCredential.
	APIVersion = "client.authentication.k8s.io/v1"
	// Kind of ExecCredential.
	Kind = "ExecCredential"

	// HeaderRefused of a request has the ETag of a response whose credential the target rejects,
	// although it has not expired. A broker that does not support the header ignores it.
	HeaderRefused = "Keyferry-Refused"

	// HeaderExpiresIn of a request is the number of seconds until the client's credential expires. In
	// the last two minutes the broker calls a failed provider again before the time that the provider
	// requested. A broker that does not support the header ignores it.
	HeaderExpiresIn = "Keyferry-Expires-In"
)

// TargetClusterPath returns the path of the credential for a TargetCluster. The method is POST.
func TargetClusterPath(namespace, name string) string {
	return "/v1/namespaces/" + url.PathEscape(namespace) + "/targetclusters/" + url.PathEscape(name) + "/credential"
}

// ClusterProfilePath returns the path of the credential for a ClusterProfile. The method is POST.
func ClusterProfilePath(namespace, name string) string {
	return "/v1/namespaces/" + url.PathEscape(namespace) + "/clusterprofiles/" + url.PathEscape(name) + "/credential"
}

// Request is the body of a request. All fields are optional, so {} is valid.
type Request struct {
	// SubjectToken is a token of the Pod with the audience of the target's provider.
	SubjectToken string `json:"subjectToken,omitempty"`
}

// ExecCredential is the response. Spec.Cluster is always set. Status is set unless
// Config.PluginInPod is true.
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

// Cluster is the endpoint of the target.
type Cluster struct {
	Server                   string `json:"server"`
	TLSServerName            string `json:"tls-server-name,omitempty"`
	CertificateAuthorityData []byte `json:"certificate-authority-data,omitempty"`
	ProxyURL                 string `json:"proxy-url,omitempty"`
	Config                   Config `json:"config"`
}

// Config contains what the refresher needs and an ExecCredential has no field for.
type Config struct {
	// Namespace is the content of the file namespace, unless the Pod's annotation sets it.
	Namespace string `json:"namespace"`
	// IssuedAt and RefreshAt are times of the broker's clock, like the Date header of the response.
	IssuedAt  time.Time `json:"issuedAt"`
	RefreshAt time.Time `json:"refreshAt"`
	// Delivery is DeliveryDirect or DeliveryProxy.
	Delivery string `json:"delivery"`
	// ClusterUID identifies the cluster, because several clusters can have the same endpoint over
	// time. It is empty if it is not known.
	ClusterUID string `json:"clusterUID,omitempty"`
	// SystemRoots reports that CertificateAuthorityData contains the public CAs of a system, not the
	// CA of the cluster.
	SystemRoots bool `json:"systemRoots,omitempty"`
	// PluginInPod reports that the response has no credential, because the plugin in the Pod's spec
	// issues it.
	PluginInPod bool `json:"pluginInPod,omitempty"`
	// PluginConfig is the configuration of the plugin in the ClusterProfile. It is data, never a
	// program to run.
	PluginConfig json.RawMessage `json:"pluginConfig,omitempty"`
}

// Values of Config.Delivery.
const (
	// DeliveryDirect means that in-cluster clients use the endpoint and the credential directly.
	DeliveryDirect = "Direct"
	// DeliveryProxy means that they need the refresher's proxy, or that the user requested it.
	DeliveryProxy = "Proxy"
)

// Status contains a token, or a certificate and its key.
type Status struct {
	ExpirationTimestamp   time.Time `json:"expirationTimestamp"`
	Token                 string    `json:"token,omitempty"`
	ClientCertificateData string    `json:"clientCertificateData,omitempty"`
	ClientKeyData         string    `json:"clientKeyData,omitempty"`
}

// Error contains the fields of a metav1.Status that clients read.
type Error struct {
	Message string `json:"message"`
	Reason  string `json:"reason,omitempty"`
	Code    int    `json:"code,omitempty"`
}
