package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodes"
)

// ErrNoNode says that a cluster's nodes cannot be looked into: it is not of kind.
var ErrNoNode = errors.New("not a cluster of kind")

// Run runs a command on the cluster's node and writes what it prints to out, which may be nil.
func (c *Cluster) Run(ctx context.Context, out io.Writer, command ...string) error {
	node, err := c.node()
	if err != nil {
		return err
	}
	var problem bytes.Buffer
	if err := node.CommandContext(ctx, command[0], command[1:]...).SetStdout(out).SetStderr(&problem).Run(); err != nil {
		return fmt.Errorf("running %s on %s: %w: %s", command[0], node, err, strings.TrimSpace(problem.String()))
	}
	return nil
}

func (c *Cluster) node() (nodes.Node, error) {
	if c.Kind == "" {
		return nil, fmt.Errorf("the %s cluster: %w", c.Name, ErrNoNode)
	}
	all, err := cluster.NewProvider().ListInternalNodes(c.Kind)
	if err != nil {
		return nil, fmt.Errorf("listing the nodes of %s: %w", c.Kind, err)
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("%s has %d nodes", c.Kind, len(all))
	}
	return all[0], nil
}

// Gateway returns the address at which the cluster's node reaches this machine.
func (c *Cluster) Gateway(ctx context.Context) (string, error) {
	var route bytes.Buffer
	if err := c.Run(ctx, &route, "ip", "-4", "route", "show", "default"); err != nil {
		return "", err
	}
	fields := strings.Fields(route.String()) // default via 172.18.0.1 dev eth0
	if len(fields) < 3 || fields[1] != "via" {
		return "", fmt.Errorf("the node of the %s cluster has no default route: %q", c.Name, route.String())
	}
	return fields[2], nil
}

// PullFrom has the node pull the images of a registry from another URL.
func (c *Cluster) PullFrom(ctx context.Context, registry, url string) error {
	dir := "/etc/containerd/certs.d/" + registry
	hosts := fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", url, url)
	return c.Run(ctx, nil, "sh", "-c", `mkdir -p "$1" && printf %s "$2" >"$1/hosts.toml"`, "sh", dir, hosts)
}

// keptLogs is the node's folder of the logs that KeepLogs keeps.
const keptLogs = "/var/log/keyferry-kept"

// KeepLogs has the node keep the logs of all containers from now on, also of those that are gone,
// until ctx ends; wait returns when the node has stopped. What it kept before goes.
func (c *Cluster) KeepLogs(ctx context.Context) (wait func(), err error) {
	node, err := c.node()
	if err != nil {
		return nil, err
	}
	if err := c.Run(ctx, nil, "rm", "-rf", keptLogs); err != nil {
		return nil, err
	}
	// Links: what is written to a file later is there, too, and what is deleted stays.
	// The loop ends with its standard input: killing docker exec would leave it running in the node.
	const loop = `mkdir -p ` + keptLogs + `
		while read -r -t 1 || [ $? -gt 128 ]; do cp -aln /var/log/pods/. ` + keptLogs + `/ 2>/dev/null; done`
	stdin, stop := io.Pipe()
	context.AfterFunc(ctx, func() { _ = stop.Close() })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = node.Command("timeout", "4h", "bash", "-c", loop).SetStdin(stdin).Run()
	}()
	return func() { <-ended }, nil
}

// Logs calls visit for each log that was kept; a path is NAMESPACE_POD_UID/CONTAINER/RESTARTS.log.
func (c *Cluster) Logs(ctx context.Context, visit func(path string, log []byte) error) error {
	reader, writer := io.Pipe()
	go func() {
		// Files grow while they are read.
		writer.CloseWithError(c.Run(ctx, writer, "sh", "-c", "cp -a "+keptLogs+" /tmp/kept && tar -C /tmp/kept -c .; rm -rf /tmp/kept"))
	}()
	defer reader.CloseWithError(context.Canceled)
	for archive := tar.NewReader(reader); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		log, err := io.ReadAll(archive)
		if err != nil {
			return err
		}
		if err := visit(strings.TrimPrefix(header.Name, "./"), log); err != nil {
			return err
		}
	}
}

// Audit returns what the API server wrote down: see audit.yaml.
func (c *Cluster) Audit(ctx context.Context) ([]byte, error) {
	var log bytes.Buffer
	err := c.Run(ctx, &log, "sh", "-c", "cat $(ls -tr /var/log/kubernetes/audit*.log)")
	return log.Bytes(), err
}

// Processes returns command line and environment of each process on the node.
func (c *Cluster) Processes(ctx context.Context) ([]byte, error) {
	var list bytes.Buffer
	// Some have ended before they are read.
	err := c.Run(ctx, &list, "sh", "-c", `for p in /proc/[0-9]*; do cat "$p/cmdline" "$p/environ" 2>/dev/null; echo; done`)
	return list.Bytes(), err
}

// CoreFiles names the memory dumps of processes that are on the node.
func (c *Cluster) CoreFiles(ctx context.Context) ([]string, error) {
	var list bytes.Buffer
	err := c.Run(ctx, &list, "sh", "-c", `find / -path /proc -prune -o -path /sys -prune -o -type f \( -name core -o -name 'core.[0-9]*' \) -print 2>/dev/null; true`)
	return strings.Fields(list.String()), err
}
