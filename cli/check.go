package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/check"
)

// checked is the exit code of check where not everything is fine. All has been said.
type checked int

// The values of checked.
const (
	errWrong   checked = 1
	errUnknown checked = 2
)

func (checked) Error() string { return "something is not as it should be" }

func newCheckCommand(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	output := "text"
	cmd := &cobra.Command{
		Use:   "check POD",
		Short: "Say whether a Pod gets its credential, and if not, why",
		Long: `Walks the chain from a Pod's annotation to its credential, and says of each link whether it holds, and
if not, how to mend it: the annotation, the TargetCluster and its conditions, the permission, the injection, the
sidecar, and the credential itself.

Exit codes:
  0  everything is fine
  1  something is wrong
  2  it could not be found out`,
		Example: `  keyferry check web-5d9c7 -n app
  kubectl keyferry check web-5d9c7 -n app --context management -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output is %q: use text or json", output)
			}
			report, err := checkPod(cmd, cluster, args[0])
			if err != nil {
				return err
			}
			if err := printReport(streams, report, output); err != nil {
				return err
			}
			switch report.Result {
			case check.Wrong:
				return errWrong
			case check.Unknown:
				return errUnknown
			default:
				return nil
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", output, "text or json")
	return cmd
}

func checkPod(cmd *cobra.Command, cluster *genericclioptions.ConfigFlags, pod string) (check.Report, error) {
	if kind, name, ok := strings.Cut(pod, "/"); ok {
		if kind != "po" && kind != "pod" && kind != "pods" {
			return check.Report{}, fmt.Errorf("%s is no Pod: name one of its Pods", pod)
		}
		pod = name
	}
	cfg, err := cluster.ToRESTConfig()
	if err != nil {
		return check.Report{}, err
	}
	namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return check.Report{}, err
	}
	mapper, err := cluster.ToRESTMapper()
	if err != nil {
		return check.Report{}, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return check.Report{}, err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		return check.Report{}, err
	}
	return check.Pod(cmd.Context(), c, check.ExecIn(cfg), types.NamespacedName{Namespace: namespace, Name: pod}), nil
}

func printReport(streams genericiooptions.IOStreams, report check.Report, output string) error {
	if output == "text" {
		return report.WriteText(streams.Out)
	}
	encoder := json.NewEncoder(streams.Out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}
