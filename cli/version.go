package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/terminal"
	"github.com/keyferry/keyferry/internal/version"
)

// versions are those of the command, and of what is installed in a cluster.
type versions struct {
	Client     string      `json:"client"`
	Namespace  string      `json:"namespace,omitempty"`
	Components []component `json:"components,omitempty"`
	// Skew is true if not all of these versions are the same.
	Skew bool `json:"skew"`
}

// component is a Deployment of Keyferry.
type component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Ready and Replicas count its Pods.
	Ready    int32 `json:"ready"`
	Replicas int32 `json:"replicas"`
}

func newVersion(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	output := outputText
	onlyClient := false
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of this command and of Keyferry in the cluster",
		Long: strings.TrimSpace(`
Show the versions of this command and of Keyferry's Deployments in the cluster, and warn if they differ. Use the command
with the version of the installation.

You need permission to get the MutatingWebhookConfiguration keyferry-webhook, and to list Deployments in Keyferry's
namespace.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  keyferry version
  keyferry version --client
`, "\n"),
		Args: cobra.NoArgs,
		RunE: failing(func(cmd *cobra.Command, _ []string) error {
			found := versions{Client: version.String()}
			var err error
			if !onlyClient {
				err = found.readInstalled(cmd.Context(), cluster)
			}
			if printed := output.print(streams.Out, found, func() error { return found.writeText(streams.Out) }); printed != nil {
				return printed
			}
			if found.Skew {
				printf(streams.ErrOut, "warning: not all versions are the same: use the command of the version that is installed, and finish an upgrade\n")
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&onlyClient, "client", false, "show only the version of this command, without a cluster")
	output.addTo(cmd)
	return cmd
}

// readInstalled reads the Deployments.
func (v *versions) readInstalled(ctx context.Context, cluster *genericclioptions.ConfigFlags) error {
	_, c, err := connect(cluster)
	if err != nil {
		return err
	}
	if v.Namespace, err = installedIn(ctx, c); err != nil {
		return err
	}
	list := &appsv1.DeploymentList{}
	if err := c.List(ctx, list, client.InNamespace(v.Namespace), client.MatchingLabels{"app.kubernetes.io/part-of": "keyferry"}); err != nil {
		return fmt.Errorf("reading Deployments in namespace %s: %w", v.Namespace, err)
	}
	for i := range list.Items {
		d := &list.Items[i]
		v.Components = append(v.Components, component{Name: d.Name, Version: versionOf(d), Ready: d.Status.ReadyReplicas, Replicas: d.Status.Replicas})
	}
	v.Skew = slices.ContainsFunc(v.Components, func(c component) bool { return c.Version != v.Client })
	return nil
}

// versionOf returns the tag of the image that a Deployment runs. Only an image that is named by its
// digest has none: then it is the version of the chart.
func versionOf(d *appsv1.Deployment) string {
	for _, c := range d.Spec.Template.Spec.Containers {
		image, _, _ := strings.Cut(c.Image, "@")
		if _, tag, ok := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":"); ok {
			return tag
		}
	}
	return d.Labels["app.kubernetes.io/version"]
}

func (v *versions) writeText(out io.Writer) error {
	table := terminal.Table{Rows: [][]string{{"COMPONENT", "VERSION", "PODS"}, {"client", v.Client, "-"}}}
	for _, c := range v.Components {
		table.Rows = append(table.Rows, []string{c.Name, c.Version, fmt.Sprintf("%d/%d", c.Ready, c.Replicas)})
	}
	var text strings.Builder
	table.AppendTo(&text)
	_, err := io.WriteString(out, text.String())
	return err
}
