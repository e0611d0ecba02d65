// Package loopback is, for tests, the part of the internet from which Keyferry is installed:
// container registries, and the files of a release. All of it is on this machine, and nothing else
// can be reached through it.
package loopback

import (
	"context"
	"net/http"
	"net/url"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // the storage that Registry uses
	"github.com/sirupsen/logrus"
)

// Registry returns a CNCF distribution registry with its content in memory, until ctx ends.
func Registry(ctx context.Context) http.Handler {
	logrus.SetLevel(logrus.FatalLevel) // the registry logs each request for a missing object as an error
	config := &configuration.Configuration{
		Storage: configuration.Storage{"inmemory": nil, "delete": {"enabled": true}},
	}
	config.Log.AccessLog.Disabled = true
	config.Log.Level = "fatal"
	config.Catalog.MaxEntries = 1000
	config.HTTP.RelativeURLs = true
	config.Validation.Manifests.URLs.Allow = []string{url.QueryEscape(".*")}
	return handlers.NewApp(ctx, config)
}
