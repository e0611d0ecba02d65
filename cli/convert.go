package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/cli/convert"
)

func newConvert(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "convert -f FILE",
		Short: "Convert DPUServiceCredentialRequests of NVIDIA DPF",
		Long: strings.TrimSpace(`
Convert DPUServiceCredentialRequests (svc.dpu.nvidia.com/v1alpha1). For each request, the command prints a
CredentialRequest, its ServiceAccount, and the RBAC that allows this ServiceAccount to use the TargetCluster. For each
ServiceAccount and cluster in the requests, the command prints a TargetCluster. Comments mark the fields whose meaning
differs, and the fields that the output does not contain. Read the comments before you apply the output. The Secret with
the kubeconfig of the cluster is a placeholder.

The input is YAML or JSON with any number of documents and Lists. The command does not connect to a cluster, and rejects
all kinds except DPUServiceCredentialRequest. If the input has an error, the command prints only errors. Convert all
requests for a cluster at once, so that requests for the same ServiceAccount share a TargetCluster.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  kubectl get dpuservicecredentialrequests -A -o yaml | keyferry convert -f - > keyferry.yaml
`, "\n"),
		Args: cobra.NoArgs,
		RunE: failing(func(*cobra.Command, []string) error {
			namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			return runConvert(streams, files, namespace)
		}),
	}
	cmd.Flags().StringSliceVarP(&files, "filename", "f", nil, "file with manifests, or - for standard input; repeatable")
	_ = cmd.MarkFlagRequired("filename") // it is there
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	return cmd
}

// runConvert converts all files together. namespace is of requests that name none.
func runConvert(streams genericiooptions.IOStreams, files []string, namespace string) error {
	var inputs []convert.Input
	var problems []error
	for _, file := range files {
		text, err := readFile(streams.In, file)
		inputs, problems = append(inputs, convert.Input{Name: file, Text: text}), append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	text, warnings, err := convert.Convert(inputs, namespace)
	if err != nil {
		return err
	}
	for _, warning := range warnings {
		_, _ = fmt.Fprintf(streams.ErrOut, "warning: %s\n", warning)
	}
	_, err = streams.Out.Write(text)
	return err
}
