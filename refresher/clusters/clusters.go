// Package clusters keeps a Pod's credentials for several clusters current in one process, each on
// its own, and leads clients to all of them by a kubeconfig.
//
// Every context leads through a proxy at loopback, at a port of its own, with the one CA and the
// one token that the Pod's proxies have. So nothing in the kubeconfig ever changes, and it is whole
// before there is any credential: a cluster whose provider fails answers 503 and touches no other.
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
	// problemFile, beside the files of a further cluster, has the reason why it has no credential;
	// empty if there is none.
	problemFile = "problem"
	// subjectTokensDir, in the directory of the Pod's identity, has the tokens that the providers of
	// further clusters exchange, in NAMESPACE/NAME.
	subjectTokensDir = "subject-tokens"
)

// Cluster is a TargetCluster besides the first.
type Cluster struct {
	// Target is NAMESPACE/NAME of the TargetCluster.
	Target string
	// ProxyAddress is the loopback address and port that its context leads to.
	ProxyAddress string
	// Namespace is that of its context. Empty means none.
	Namespace string
}

// Parse reads NAMESPACE/NAME@IP:PORT, or that with /CONTEXT-NAMESPACE. Whether what is in it makes
// sense is New's to say.
func Parse(text string) (Cluster, error) {
	target, rest, found := strings.Cut(text, "@")
	if !found {
		return Cluster{}, errors.New("use NAMESPACE/NAME@IP:PORT, such as fleet/tenant-2@127.0.0.1:16444")
	}
	address, namespace, _ := strings.Cut(rest, "/")
	return Cluster{target, address, namespace}, nil
}

// Config of Clusters.
type Config struct {
	// First is for the cluster that in-cluster means, if it names one. The others have the rest in
	// common with it: the broker, the identity of the Pod, the identity of the proxy.
	First refresher.Config
	// Further are the others. If there are any, First needs delivery by proxy.
	Further []Cluster
	// Kubeconfig is where the kubeconfig is written if there are others (--kubeconfig). Beside it are
	// the files that it names, in proxy, and those of each further cluster, in
	// clusters/NAMESPACE/NAME.
	Kubeconfig string
}

// Clusters keeps credentials for all clusters of a Pod current.
type Clusters struct {
	config     Config
	refreshers []*refresher.Refresher
	contexts   []kubecontext
	// opened are the listeners of the proxies, by address.
	opened map[string]net.Listener
}

// New checks config. Errors call the fields by the flags.
func New(config Config) (*Clusters, error) {
	c := &Clusters{config: config, opened: map[string]net.Listener{}}
	if len(config.Further) == 0 || c.inCluster() {
		if len(config.Further) > 0 && config.First.Delivery != refresher.Proxy {
			return nil, errors.New("--cluster needs --delivery=proxy, since every context of the kubeconfig leads through the proxy")
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

// configOf returns what the refresher of a further cluster is made of.
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

// Run keeps all files current until ctx ends, when it returns nil, or one refresher returns an
// error, which it returns: that a proxy cannot serve, or refresher.ErrRestart. A provider that
// fails is no error. It may be called once.
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

// prepare opens the ports and makes the directories, before it writes the kubeconfig that leads
// there: who has read it finds all of them.
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

// open opens the port of a context. Where loopback has IPv6 only, the context leads there; not so
// where in-cluster clients have already been told the other.
func (c *Clusters) open(ctx context.Context, k *kubecontext) error {
	asked := k.address
	listener, err := c.listen(ctx, "tcp", asked)
	if errors.Is(err, syscall.EADDRNOTAVAIL) && !c.inCluster() {
		_, port, _ := net.SplitHostPort(asked) // New has found it good
		k.address = net.JoinHostPort("::1", port)
		listener, err = c.listen(ctx, "tcp", k.address)
	}
	if err != nil {
		return err
	}
	c.opened[asked] = listener
	return nil
}

// inCluster reports whether there is a first cluster.
func (c *Clusters) inCluster() bool {
	return c.config.First.Target != "" || c.config.First.ClusterProfile != ""
}

// listen opens a listener, or hands over the one that has been opened before.
func (c *Clusters) listen(ctx context.Context, network, address string) (net.Listener, error) {
	if listener := c.opened[address]; listener != nil {
		return listener, nil
	}
	if c.config.First.Listen != nil {
		return c.config.First.Listen(ctx, network, address)
	}
	return new(net.ListenConfig).Listen(ctx, network, address)
}
