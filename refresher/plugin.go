package refresher

import (
	"context"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/credentialplugin"
	"github.com/keyferry/keyferry/providers"
)

// ByPlugin returns a function for Config.Plugin that runs p. If tell is true, p receives the
// cluster's endpoint and CA.
func ByPlugin(p credentialplugin.Plugin, tell bool) func(context.Context, wire.Cluster) (providers.Credential, error) {
	return func(ctx context.Context, cluster wire.Cluster) (providers.Credential, error) {
		if !tell {
			return p.Run(ctx, nil)
		}
		return p.Run(ctx, pluginCluster(cluster))
	}
}

// pluginCluster returns the cluster information for the plugin. It omits the public CAs of a
// system, like kubectl, because they are too long for the environment variable.
func pluginCluster(cluster wire.Cluster) *credentialplugin.Cluster {
	if cluster.Config.SystemRoots {
		cluster.CertificateAuthorityData = nil
	}
	return &credentialplugin.Cluster{
		Server:                   cluster.Server,
		TLSServerName:            cluster.TLSServerName,
		CertificateAuthorityData: cluster.CertificateAuthorityData,
		ProxyURL:                 cluster.ProxyURL,
		Config:                   cluster.Config.PluginConfig,
	}
}
