// Package tumblebug gets tokens for clusters that CB-Tumblebug manages, from its REST API
// (https://github.com/cloud-barista/cb-tumblebug).
package tumblebug

import (
	"errors"
	"net/http"
	"regexp"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/tokenapi"
)

// What is sent in a header must not end it.
var holder = regexp.MustCompile(`^[0-9A-Za-z]([0-9A-Za-z._-]*[0-9A-Za-z])?$`)

// Config is what a Provider is made from.
type Config struct {
	// URL of CB-Tumblebug: http or https, without the /tumblebug of its API.
	URL string
	// Namespace and Cluster are IDs in CB-Tumblebug.
	Namespace string
	Cluster   string
	// CredentialHolder is whose cloud credentials it uses; empty leaves it to CB-Tumblebug.
	CredentialHolder string

	// Secret names the Secret in messages, such as fleet/tumblebug; it is empty if there is none. Data
	// is its content: username and password, or token; ca.crt.
	Secret string
	Data   map[string][]byte

	// Egress says which addresses may be connected to.
	Egress endpoint.Policy
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// New returns a Provider, or an error that names the field that is wrong, and the fix.
//
// CB-Tumblebug answers 404 if there is no such namespace, and 500 to all else that it cannot do,
// also if there is no such cluster. So all of that is taken as unavailable, with its message.
func New(cfg Config) (*tokenapi.Provider, error) {
	header := http.Header{}
	if cfg.CredentialHolder != "" {
		if !holder.MatchString(cfg.CredentialHolder) {
			return nil, errors.New("spec.access.tumblebug.credentialHolder contains characters other than letters, digits, dots, dashes and underscores: correct the value")
		}
		header.Set("x-credential-holder", cfg.CredentialHolder)
	}
	return tokenapi.New(tokenapi.Config{
		Name:    "CB-Tumblebug",
		Subject: "cluster " + cfg.Cluster + " in namespace " + cfg.Namespace,
		Field:   "spec.access.tumblebug",
		URL:     cfg.URL,
		Path:    []string{"tumblebug", "ns", cfg.Namespace, "k8sCluster", cfg.Cluster, "token"},
		Header:  header,
		Secret:  cfg.Secret,
		Data:    cfg.Data,
		Egress:  cfg.Egress,
		Now:     cfg.Now,
	})
}
