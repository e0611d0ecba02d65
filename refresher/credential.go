package refresher

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/providers"
	"github.com/keyferry/keyferry/refresher/proxy"
)

// State is the content of state.json, a part of each set of files. It contains no secret.
type State struct {
	// Endpoint is the URL that clients use. It always has a port.
	Endpoint string `json:"endpoint"`
	// NotAfter is the expiry of the credential, by this node's clock.
	NotAfter time.Time `json:"notAfter"`
	// ClusterUID is the UID of the target's kube-system namespace. It identifies the cluster; empty if
	// it is not known.
	ClusterUID string `json:"clusterUID,omitempty"`
}

// Names of the files.
const (
	tokenFile     = "token"
	caFile        = "ca.crt"
	namespaceFile = "namespace"
	envFile       = "env"
	stateFile     = "state.json"
	// In the directory of the identity only.
	subjectTokenFile = "subject-token"
)

// credential is an issued credential and its target. The broker or the Pod's own plugin issued it.
type credential struct {
	target     proxy.Target
	clusterUID string
	namespace  string
	// delivery is the delivery that the broker requires for the target.
	delivery string
	// endpoint is the endpoint that clients use: the target's, or the proxy's.
	endpoint endpoint
	// By this node's clock.
	notAfter, refreshAt time.Time
}

// parseAnswer parses a response of the broker.
func parseAnswer(body []byte) (wire.ExecCredential, error) {
	var answer wire.ExecCredential
	if err := json.Unmarshal(body, &answer); err != nil {
		return answer, fmt.Errorf("decoding the broker's answer: %w", err)
	}
	if answer.APIVersion != wire.APIVersion || answer.Kind != wire.Kind {
		return answer, fmt.Errorf("the broker's answer is a %q of %q, not an %s of %s: is --broker the broker?",
			answer.Kind, answer.APIVersion, wire.Kind, wire.APIVersion)
	}
	return answer, nil
}

// brokerCredential returns the credential in a response. received is the time of the response by
// this node's clock, date by the broker's clock. It uses only differences of the broker's times, so
// the clocks need not agree.
func brokerCredential(answer wire.ExecCredential, date, received time.Time) (credential, error) {
	cluster, status := answer.Spec.Cluster, answer.Status
	return newCredential(cluster, providers.Credential{
		Token:             status.Token,
		ClientCertificate: []byte(status.ClientCertificateData),
		ClientKey:         []byte(status.ClientKeyData),
		NotAfter:          received.Add(status.ExpirationTimestamp.Sub(date)),
	}, received.Add(cluster.Config.RefreshAt.Sub(date)), received)
}

// answer returns c as a response of the broker, with times of this node's clock.
func (c credential) answer() wire.ExecCredential {
	cluster := wire.Cluster{
		Server:                   c.target.Server.String(),
		TLSServerName:            c.target.ServerName,
		CertificateAuthorityData: c.target.CA,
		Config: wire.Config{
			Namespace: c.namespace, RefreshAt: c.refreshAt, Delivery: c.delivery, ClusterUID: c.clusterUID,
		},
	}
	if c.target.Proxy != nil {
		cluster.ProxyURL = c.target.Proxy.String()
	}
	return wire.ExecCredential{
		APIVersion: wire.APIVersion,
		Kind:       wire.Kind,
		Spec:       wire.Spec{Cluster: cluster},
		Status: wire.Status{
			ExpirationTimestamp:   c.notAfter,
			Token:                 c.target.Token,
			ClientCertificateData: string(c.target.Certificate),
			ClientKeyData:         string(c.target.Key),
		},
	}
}

// storedCredential parses a stored credential. Its errors contain no part of it.
func storedCredential(content []byte, now time.Time) (credential, error) {
	answer, err := parseAnswer(content)
	if err != nil {
		return credential{}, err
	}
	return brokerCredential(answer, now, now)
}

// newCredential returns a credential for the cluster that the broker returned. All times are by
// this node's clock.
func newCredential(cluster wire.Cluster, issued providers.Credential, refreshAt, now time.Time) (credential, error) {
	c := credential{
		target: proxy.Target{
			CA:          cluster.CertificateAuthorityData,
			ServerName:  cluster.TLSServerName,
			Token:       issued.Token,
			Certificate: issued.ClientCertificate,
			Key:         issued.ClientKey,
			NotAfter:    issued.NotAfter,
		},
		clusterUID: cluster.Config.ClusterUID,
		namespace:  cluster.Config.Namespace,
		delivery:   cluster.Config.Delivery,
		notAfter:   issued.NotAfter,
		refreshAt:  refreshAt,
	}
	if err := c.parseURLs(cluster); err != nil {
		return credential{}, fmt.Errorf("the broker's answer cannot be used: %w", err)
	}
	if err := c.check(now); err != nil {
		return credential{}, fmt.Errorf("the answer cannot be used: %w", err)
	}
	return c, nil
}

func (c *credential) parseURLs(cluster wire.Cluster) (err error) {
	if c.target.Server, err = url.Parse(cluster.Server); err != nil {
		return fmt.Errorf("parsing the server's URL: %w", err)
	}
	if cluster.ProxyURL == "" {
		return nil
	}
	if c.target.Proxy, err = url.Parse(cluster.ProxyURL); err != nil {
		return errors.New("the URL of the endpoint's proxy cannot be parsed") // and not be quoted, it may hold a password
	}
	return nil
}

// check returns an error if clients could not use the credential. The error does not contain the
// token.
func (c credential) check(now time.Time) error {
	switch {
	case c.delivery != wire.DeliveryDirect && c.delivery != wire.DeliveryProxy:
		return fmt.Errorf("delivery %q is not supported by this version of the refresher", c.delivery)
	case !isNamespace(c.namespace):
		return fmt.Errorf("%q is not the name of a namespace", c.namespace)
	case !c.notAfter.After(now):
		return errors.New("the credential has already ended")
	}
	return c.target.Check()
}

// tellDirectly sets c.endpoint to the target's endpoint, or returns an error if the target needs
// delivery by proxy.
func (c *credential) tellDirectly() (err error) {
	const fix = ": recreate the Pod, for delivery by proxy"
	switch host := c.target.Server.Hostname(); {
	case c.delivery != wire.DeliveryDirect:
		return errors.New("the target now needs delivery by proxy, but this Pod has direct delivery" + fix)
	case c.target.Token == "":
		return errors.New("in-cluster clients use tokens, but the credential is a client certificate" + fix + " (annotation keyferry.dev/delivery)")
	case c.target.ServerName != "" && !strings.EqualFold(c.target.ServerName, host), c.target.Proxy != nil:
		return errors.New("in-cluster clients do not support the endpoint's TLS server name or proxy" + fix)
	}
	if c.endpoint, err = parseEndpoint(c.target.Server.String()); err != nil {
		return fmt.Errorf("the broker's answer cannot be used: %w", err)
	}
	return nil
}

// files returns the set of files with the endpoint, the CA and the token for clients. Clients send
// token and namespace unchanged, so neither ends in a newline.
func (c credential) files(token string, ca []byte) (map[string][]byte, error) {
	state, err := json.Marshal(State{
		Endpoint: c.endpoint.String(),
		// Rounded down, so that clients do not use it after its expiry.
		NotAfter:   c.notAfter.UTC().Truncate(time.Second),
		ClusterUID: c.clusterUID,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", stateFile, err)
	}
	return map[string][]byte{
		tokenFile:     []byte(token),
		caFile:        ca,
		namespaceFile: []byte(c.namespace),
		envFile:       c.endpoint.env(),
		stateFile:     state,
	}, nil
}

// parseState parses state.json of a set of files. It returns an error if the set is incomplete.
func parseState(files map[string][]byte) (State, error) {
	for _, name := range []string{tokenFile, caFile, namespaceFile, envFile, stateFile} {
		if len(files[name]) == 0 {
			return State{}, fmt.Errorf("%s is missing or empty", name)
		}
	}
	var state State
	if err := json.Unmarshal(files[stateFile], &state); err != nil {
		return State{}, fmt.Errorf("decoding %s: %w", stateFile, err)
	}
	return state, nil
}
