package refresher

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
)

// State is what state.json says of the set of files that it is part of. It holds no secret.
type State struct {
	// Endpoint is the API server's URL, always with a port.
	Endpoint string `json:"endpoint"`
	// NotAfter is when the credential ends, by this node's clock.
	NotAfter time.Time `json:"notAfter"`
	// ClusterUID tells clusters behind the same endpoint apart; empty if it is not known.
	ClusterUID string `json:"clusterUID,omitempty"`
}

// Names of the files.
const (
	tokenFile     = "token"
	caFile        = "ca.crt"
	namespaceFile = "namespace"
	envFile       = "env"
	stateFile     = "state.json"
)

// credential is an answer of the broker that was found fit to be written.
type credential struct {
	endpoint   endpoint
	clusterUID string
	token      string
	ca         []byte
	namespace  string
	// By this node's clock.
	notAfter, refreshAt time.Time
}

// parseCredential reads an answer that came at received, by this node's clock, and was sent at date, by the broker's. Only
// differences of the broker's times are used, so it does not matter how far the two clocks are apart.
func parseCredential(body []byte, date, received time.Time) (credential, error) {
	var answer wire.ExecCredential
	if err := json.Unmarshal(body, &answer); err != nil {
		return credential{}, fmt.Errorf("decoding the broker's answer: %w", err)
	}
	cluster, status := answer.Spec.Cluster, answer.Status
	switch {
	case answer.APIVersion != wire.APIVersion || answer.Kind != wire.Kind:
		return credential{}, fmt.Errorf("the broker's answer is a %q of %q, not an %s of %s: is --broker the broker?",
			answer.Kind, answer.APIVersion, wire.Kind, wire.APIVersion)
	case cluster.Config.Delivery != "Direct":
		return credential{}, fmt.Errorf("delivery %q is not supported by this version of the refresher", cluster.Config.Delivery)
	case status.Token == "" && status.ClientCertificateData != "":
		return credential{}, errors.New("a client certificate as credential is not supported by this version of the refresher")
	case cluster.TLSServerName != "" || cluster.ProxyURL != "":
		return credential{}, errors.New("in-cluster clients cannot be told a TLS server name or a proxy, which the endpoint needs")
	}
	c := credential{
		clusterUID: cluster.Config.ClusterUID,
		token:      status.Token,
		ca:         cluster.CertificateAuthorityData,
		namespace:  cluster.Config.Namespace,
		notAfter:   received.Add(status.ExpirationTimestamp.Sub(date)),
		refreshAt:  received.Add(cluster.Config.RefreshAt.Sub(date)),
	}
	var err error
	if c.endpoint, err = parseEndpoint(cluster.Server); err != nil {
		return credential{}, fmt.Errorf("the broker's answer cannot be used: %w", err)
	}
	if err := c.check(received); err != nil {
		return credential{}, fmt.Errorf("the broker's answer cannot be used: %w", err)
	}
	return c, nil
}

// check refuses what would break a client that reads it. It never quotes the token.
func (c credential) check(now time.Time) error {
	switch {
	case c.token == "":
		return errors.New("the token is empty")
	case strings.ContainsFunc(c.token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the token holds characters that no HTTP header can")
	case !x509.NewCertPool().AppendCertsFromPEM(c.ca):
		return errors.New("the certificate authority of the endpoint is missing or not PEM")
	case !isNamespace(c.namespace):
		return fmt.Errorf("namespace %q is not a name of a namespace", c.namespace)
	case !c.notAfter.After(now):
		return errors.New("the credential has already ended")
	}
	return nil
}

// files returns the set of files by which applications get the credential. Clients send token and namespace as they are,
// so neither ends in a newline.
func (c credential) files(ca []byte) (map[string][]byte, error) {
	state, err := json.Marshal(State{
		Endpoint: c.endpoint.String(),
		// Rounded down: clients must never take it for valid longer than it is.
		NotAfter:   c.notAfter.UTC().Truncate(time.Second),
		ClusterUID: c.clusterUID,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", stateFile, err)
	}
	return map[string][]byte{
		tokenFile:     []byte(c.token),
		caFile:        ca,
		namespaceFile: []byte(c.namespace),
		envFile:       c.endpoint.env(),
		stateFile:     state,
	}, nil
}

// parseState reads state.json of a set, and refuses a set that is not whole.
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
