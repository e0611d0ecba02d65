package check

import (
	"bytes"
	"context"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// Exec runs a command in a container and returns what it wrote to stderr. The error is an
// exec.CodeExitError if the command ran and ended with another code than 0.
type Exec func(ctx context.Context, pod types.NamespacedName, container string, command ...string) (stderr string, err error)

// ExecIn returns an Exec for the containers of a cluster.
func ExecIn(cfg *rest.Config) Exec {
	return func(ctx context.Context, pod types.NamespacedName, container string, command ...string) (string, error) {
		cfg := rest.CopyConfig(cfg)
		cfg.APIPath, cfg.GroupVersion = "/api", &corev1.SchemeGroupVersion
		cfg.NegotiatedSerializer = clientgoscheme.Codecs.WithoutConversion()
		c, err := rest.RESTClientFor(cfg)
		if err != nil {
			return "", err
		}
		url := c.Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").VersionedParams(
			&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, clientgoscheme.ParameterCodec).URL()
		executor, err := remotecommand.NewWebSocketExecutor(cfg, "GET", url.String())
		if err != nil {
			return "", err
		}
		var stderr bytes.Buffer
		err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard, Stderr: &stderr})
		return strings.TrimSpace(stderr.String()), err
	}
}
