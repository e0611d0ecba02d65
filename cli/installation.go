package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/installation"
)

func newCheckInstallation(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "check-installation",
		Short: "Say whether webhooks and broker work; to be run in a Pod of the cluster",
		Long: `Asks the webhooks what the API server asks them, and the broker as refreshers do, and verifies their
certificates as these do. It is what helm test runs, in a Pod: elsewhere, Services have no names.

The namespace that Keyferry is installed in is that of the Pod, or of --namespace.

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: failing(func(cmd *cobra.Command, _ []string) error {
			return checkInstallation(cmd.Context(), streams.Out, cluster)
		}),
	}
}

func checkInstallation(ctx context.Context, out io.Writer, cluster *genericclioptions.ConfigFlags) error {
	cfg, err := cluster.ToRESTConfig()
	if err != nil {
		return err
	}
	namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return err
	}
	reader, err := client.New(cfg, client.Options{Scheme: clientgoscheme.Scheme})
	if err != nil {
		return err
	}
	findings := installation.Check(ctx, installation.Config{Client: reader, Namespace: namespace})
	for _, f := range findings {
		line := "✓ " + f.What
		if f.Err != nil {
			line = fmt.Sprintf("✗ %s: %v", f.What, f.Err)
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	if !installation.Works(findings) {
		return errors.New("not everything works")
	}
	return nil
}
