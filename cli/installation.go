package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/cli/installation"
	"github.com/keyferry/keyferry/cli/terminal"
)

func newCheckInstallation(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	output := outputText
	cmd := &cobra.Command{
		Use:   "check-installation",
		Short: "Check webhooks and broker from a Pod of the cluster",
		Long: `Check that the webhooks and the broker answer, and verify their certificates. The command sends the same requests as an
API server and a refresher. "helm test" runs this command in a Pod, because only Pods can resolve the names of Services.

Keyferry's namespace is the namespace of the Pod, or --namespace.

` + exitCodes,
		Example: strings.Trim(`
  # In a Pod with the necessary permissions
  helm test keyferry -n keyferry-system --logs
`, "\n"),
		Args: cobra.NoArgs,
		RunE: failing(func(cmd *cobra.Command, _ []string) error {
			return checkInstallation(cmd.Context(), streams.Out, output, cluster)
		}),
	}
	output.addTo(cmd)
	return cmd
}

func checkInstallation(ctx context.Context, out io.Writer, as output, cluster *genericclioptions.ConfigFlags) error {
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
	report := struct { // as check's
		Checks []check.Finding `json:"checks"`
	}{}
	palette := terminal.PaletteFor(out)
	var text strings.Builder
	for _, f := range findings {
		finding := check.Finding{Check: f.What, Result: check.Fine, Message: f.Note}
		line := palette.Good("✓") + " " + f.What
		if f.Note != "" {
			line += ": " + f.Note
		}
		if f.Err != nil {
			finding.Result, finding.Message = check.Wrong, f.Err.Error()
			line = fmt.Sprintf("%s %s: %v", palette.Bad("✗"), f.What, f.Err)
		}
		text.WriteString(line + "\n")
		report.Checks = append(report.Checks, finding)
	}
	err = as.print(out, report, func() error { _, err := io.WriteString(out, text.String()); return err })
	if err != nil {
		return err
	}
	if !installation.Works(findings) {
		return errors.New("not everything works")
	}
	return nil
}
