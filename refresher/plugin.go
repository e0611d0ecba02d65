package refresher

import (
	"context"

	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/internal/credentialplugin"
	"github.com/keyferry/keyferry/providers"
)

// ByPlugin returns what Config.Plugin is for p, which is told of the cluster only if tell says so.
func ByPlugin(p credentialplugin.Plugin, tell bool) func(context.Context, wire.Cluster) (providers.Credential, error) {
	return func(ctx context.Context, cluster wire.Cluster) (providers.Credential, error) {
		if !tell {
			return p.Run(ctx, nil)
		}
		return p.Run(ctx, pluginCluster(cluster))
	}
}

// pluginCluster leaves out all public CAs, as kubectl does: they are too long for the environment
// variable that it is told in.
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
