// Package cluster brings up the two kind clusters that the tests and the demo run on, or adopts
// given ones.
package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"
)

// Cluster is one running cluster.
type Cluster struct {
	// Name is "management" or "target".
	Name string
	// Kubeconfig is the path of a kubeconfig for this machine.
	Kubeconfig string
	// InternalKubeconfig is the path of a kubeconfig whose server Pods of the other cluster reach.
	InternalKubeconfig string
	// Kind is the cluster's name in kind, empty for a cluster of another make.
	Kind string
}

// Pair is the two clusters of a test.
type Pair struct {
	Management, Target *Cluster
	// Federated says that the target accepts tokens of the management cluster, for FederationAudience.
	Federated bool
}

// Config returns the cluster's client configuration. Its rate limits are off: a test waits for the
// cluster, not for itself.
func (c *Cluster) Config() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig of the %s cluster: %w", c.Name, err)
	}
	cfg.QPS = -1
	return cfg, nil
}

// Client returns a client for the cluster that caches nothing.
func (c *Cluster) Client() (client.WithWatch, error) {
	cfg, err := c.Config()
	if err != nil {
		return nil, err
	}
	return client.NewWithWatch(cfg, client.Options{})
}

// Load puts the images of a tar file, as `docker save` writes it, on the cluster's nodes. Only
// clusters of kind take images this way; others have to be able to pull them.
func (c *Cluster) Load(ctx context.Context, archive string) error {
	if c.Kind == "" {
		return fmt.Errorf("loading %s into the %s cluster: it is not a cluster of kind: push the image where its nodes can pull it", archive, c.Name)
	}
	nodes, err := cluster.NewProvider().ListInternalNodes(c.Kind)
	if err != nil {
		return fmt.Errorf("listing the nodes of %s: %w", c.Kind, err)
	}
	for _, node := range nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		file, err := os.Open(filepath.Clean(archive))
		if err != nil {
			return err
		}
		err = errors.Join(nodeutils.LoadImageArchive(node, file), file.Close())
		if err != nil {
			return fmt.Errorf("loading %s into %s: %w", archive, node, err)
		}
	}
	return nil
}

// ClientAuthority returns certificate and key of the authority whose client certificates the
// cluster's API server accepts. Only those of kind show it.
func (c *Cluster) ClientAuthority() (certificate, key []byte, err error) {
	if c.Kind == "" {
		return nil, nil, fmt.Errorf("the %s cluster is not a cluster of kind", c.Name)
	}
	nodes, err := cluster.NewProvider().ListInternalNodes(c.Kind)
	if err != nil || len(nodes) == 0 {
		return nil, nil, fmt.Errorf("listing the nodes of %s: %w", c.Kind, err)
	}
	var files [2]bytes.Buffer
	for i, name := range []string{"ca.crt", "ca.key"} {
		if err := nodes[0].Command("cat", "/etc/kubernetes/pki/"+name).SetStdout(&files[i]).Run(); err != nil {
			return nil, nil, fmt.Errorf("reading %s of %s: %w", name, c.Kind, err)
		}
	}
	return files[0].Bytes(), files[1].Bytes(), nil
}

// adopt describes a cluster that exists. It is one of kind if its context says so and kind knows
// it.
func adopt(name, kubeconfig, internal string) (*Cluster, error) {
	raw, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig of the %s cluster: %w", name, err)
	}
	c := &Cluster{Name: name, Kubeconfig: kubeconfig, InternalKubeconfig: internal}
	if inKind, found := strings.CutPrefix(raw.CurrentContext, "kind-"); found {
		if nodes, err := cluster.NewProvider().ListInternalNodes(inKind); err == nil && len(nodes) > 0 {
			c.Kind = inKind
		}
	}
	return c, nil
}

// Apply creates or updates the objects of manifests in YAML, in their order.
func (c *Cluster) Apply(ctx context.Context, manifests []byte) error {
	api, err := c.Client()
	if err != nil {
		return err
	}
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifests)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			return err
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := api.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("keyferry-e2e"), client.ForceOwnership); err != nil {
			return fmt.Errorf("applying %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
}
