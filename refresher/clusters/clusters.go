// Package clusters keeps a Pod's credentials for several clusters current in one process,
// independently of each other, and writes a kubeconfig with a context for each of them.
//
// Each context uses a proxy on loopback with its own port. All proxies have the Pod's CA and token.
// So the kubeconfig never changes and can be written before there is any credential. If a provider
// fails, requests in the context of its cluster fail with 503, and other clusters are not affected.
package clusters

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/keyferry/keyferry/refresher"
	"github.com/keyferry/keyferry/refresher/fileset"
)

const (
	// problemFile is a file next to the files of a further cluster. It contains the reason if there is
	// no credential, and is empty otherwise.
	problemFile = "problem"
	// subjectTokensDir is a directory in the directory of the Pod's identity. It contains the tokens
	// that the providers of further clusters exchange, as NAMESPACE/NAME.
	subjectTokensDir = "subject-tokens"
)

// Cluster is a further TargetCluster.
type Cluster struct {
	// Target is NAMESPACE/NAME of the TargetCluster.
	Target string
	// ProxyAddress is the loopback address and port of its proxy.
	ProxyAddress string
	// Namespace is the namespace of its context. Empty means none.
	Namespace string
}

// Parse parses NAMESPACE/NAME@IP:PORT, optionally with /CONTEXT-NAMESPACE. New validates the
// values.
func Parse(text string) (Cluster, error) {
	target, rest, found := strings.Cut(text, "@")
	if !found {
		return Cluster{}, errors.New("use NAMESPACE/NAME@IP:PORT, such as fleet/tenant-2@127.0.0.1:16444")
	}
	address, namespace, _ := strings.Cut(rest, "/")
	return Cluster{target, address, namespace}, nil
}

// Config configures Clusters.
type Config struct {
	// First is the configuration for the in-cluster target, if First names one. The other clusters use
	// its settings for the broker, the Pod's identity and the proxy's identity.
	First refresher.Config
	// Further are the other clusters. If there are any, First needs delivery by proxy.
	Further []Cluster
	// Kubeconfig is the path of the kubeconfig, if there are further clusters (--kubeconfig). Next to
	// it are the directory proxy, with the files that it refers to, and the files of each further
	// cluster in clusters/NAMESPACE/NAME.
	Kubeconfig string
}

// Clusters keeps credentials for all clusters of a Pod current.
type Clusters struct {
	config     Config
	refreshers []*refresher.Refresher
	contexts   []kubecontext
	// opened contains the listeners of the proxies by address.
	opened map[string]net.Listener
}

// New validates config. Its errors refer to fields by their flags.
func New(config Config) (*Clusters, error) {
	c := &Clusters{config: config, opened: map[string]net.Listener{}}
	if len(config.Further) == 0 || c.inCluster() {
		if len(config.Further) > 0 && config.First.Delivery != refresher.Proxy {
			return nil, errors.New("--cluster needs --delivery=proxy, because every context uses the proxy")
		}
		if err := c.add(config.First); err != nil {
			return nil, err
		}
	}
	for _, further := range config.Further {
		if err := c.add(c.configOf(further)); err != nil {
			return nil, fmt.Errorf("--cluster of %s: %w", further.Target, err)
		}
	}
	return c, nil
}

// configOf returns the configuration of the refresher of a further cluster.
func (c *Clusters) configOf(further Cluster) refresher.Config {
	config := c.config.First
	config.Target, config.ClusterProfile, config.Plugin = further.Target, "", nil
	config.Namespace = further.Namespace
	config.SubjectToken = filepath.Join(subjectTokensDir, filepath.FromSlash(further.Target))
	config.Delivery, config.ProxyAddress = refresher.Proxy, further.ProxyAddress
	config.OnEndpointChange, config.Endpoint = refresher.Ignore, ""
	config.CredentialsDir = filepath.Join(filepath.Dir(c.config.Kubeconfig), "clusters", filepath.FromSlash(further.Target))
	config.TerminationLog = filepath.Join(config.CredentialsDir, problemFile)
	return config
}

func (c *Clusters) add(config refresher.Config) error {
	config.Listen = c.listen
	r, err := refresher.New(config)
	if err != nil {
		return err
	}
	added := kubecontext{name: config.Target + config.ClusterProfile, address: config.ProxyAddress, namespace: config.Namespace}
	for _, other := range c.contexts {
		if other.name == added.name || other.address == added.address {
			return fmt.Errorf("%s at %s and %s at %s have the same name or address", other.name, other.address, added.name, added.address)
		}
	}
	c.refreshers, c.contexts = append(c.refreshers, r), append(c.contexts, added)
	return nil
}

// Handler serves /healthz and /metrics for all clusters.
func (c *Clusters) Handler(version string) http.Handler {
	return refresher.Handler(version, c.refreshers...)
}

// Run keeps all files current. It returns nil when ctx is done, or the first error of a refresher:
// a proxy cannot serve, or refresher.ErrRestart. A failing provider is not an error. Run may be
// called once.
func (c *Clusters) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(c.config.Further) > 0 {
		if err := c.prepare(ctx); err != nil {
			return err
		}
	}
	ended := make(chan error)
	for _, r := range c.refreshers {
		go func() { ended <- r.Run(ctx) }()
	}
	var err error
	for range c.refreshers {
		err = errors.Join(err, <-ended)
		cancel()
	}
	return err
}

// prepare opens the ports and creates the directories, and then writes the kubeconfig that refers
// to them: clients that read it find all of them.
func (c *Clusters) prepare(ctx context.Context) error {
	for i := range c.contexts {
		if err := c.open(ctx, &c.contexts[i]); err != nil {
			return refresher.ListenError(err)
		}
	}
	for _, further := range c.config.Further {
		if err := fileset.MakeDir(c.configOf(further).CredentialsDir); err != nil {
			return fmt.Errorf("creating the directory for %s: %w", further.Target, err)
		}
	}
	return writeKubeconfig(c.config.Kubeconfig, c.config.First.ProxyDir, c.contexts)
}

// open opens the port of a context. If loopback has only IPv6 addresses, the context uses IPv6.
// This is not possible with an in-cluster target, because its clients already have the IPv4
// address.
func (c *Clusters) open(ctx context.Context, k *kubecontext) error {
	asked := k.address
	listener, err := c.listen(ctx, "tcp", asked)
	if errors.Is(err, syscall.EADDRNOTAVAIL) && !c.inCluster() {
		_, port, _ := net.SplitHostPort(asked) // valid: New has checked it
		k.address = net.JoinHostPort("::1", port)
		listener, err = c.listen(ctx, "tcp", k.address)
	}
	if err != nil {
		return err
	}
	c.opened[asked] = listener
	return nil
}

// inCluster reports whether there is an in-cluster target.
func (c *Clusters) inCluster() bool {
	return c.config.First.Target != "" || c.config.First.ClusterProfile != ""
}

// listen returns the listener that was opened before, or opens one.
func (c *Clusters) listen(ctx context.Context, network, address string) (net.Listener, error) {
	if listener := c.opened[address]; listener != nil {
		return listener, nil
	}
	if c.config.First.Listen != nil {
		return c.config.First.Listen(ctx, network, address)
	}
	return new(net.ListenConfig).Listen(ctx, network, address)
}
