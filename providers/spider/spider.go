// Package spider gets tokens for clusters that CB-Spider manages, from its REST API
// (https://github.com/cloud-barista/cb-spider).
package spider

import (
	"net/url"
	"time"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/tokenapi"
)

// Config is what a Provider is made from.
type Config struct {
	// URL of CB-Spider: http or https, without the /spider of its API.
	URL string
	// Cluster and Connection are names in CB-Spider.
	Cluster    string
	Connection string

	// Secret names the Secret in messages, such as fleet/spider; it is empty if there is none. Data is
	// its content: username and password, or token; ca.crt.
	Secret string
	Data   map[string][]byte

	// Egress says which addresses may be connected to.
	Egress endpoint.Policy
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// New returns a Provider, or an error that names the field that is wrong, and the fix.
//
// CB-Spider answers 500 to all that it cannot do, also if there is no such cluster. So all of that
// is taken as unavailable, with its message.
func New(cfg Config) (*tokenapi.Provider, error) {
	return tokenapi.New(tokenapi.Config{
		Name:    "CB-Spider",
		Subject: "cluster " + cfg.Cluster + " of connection " + cfg.Connection,
		Field:   "spec.access.spider",
		URL:     cfg.URL,
		Path:    []string{"spider", "cluster", cfg.Cluster, "token"},
		Query:   url.Values{"ConnectionName": {cfg.Connection}},
		Secret:  cfg.Secret,
		Data:    cfg.Data,
		Egress:  cfg.Egress,
		Now:     cfg.Now,
	})
}
