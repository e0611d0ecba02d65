package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/cli/terminal"
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
	output := outputText
	cmd := &cobra.Command{
		Use:   "check (POD | KIND/NAME)",
		Short: "Say whether a Pod gets its credential, and if not, why",
		Long: `Walks the chain from a Pod's annotation to its credential, and says of each link whether it holds, and
if not, how to fix it: the annotation, the TargetCluster and its conditions, the permission, the injection, the
sidecar, and the credential itself. Of a workload, such as deployment/web, it takes the newest Pod.

Exit codes:
  0  everything is fine
  1  something is wrong
  2  it could not be found out, or wrong usage`,
		Example: `  # Step by step, with the fix for each failed step
  keyferry check web-5d8f -n app
  keyferry check deployment/web -n app

  # For a script
  keyferry check web-5d8f -n app -o json | jq -r '.checks[] | select(.result != "OK") | .message'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: firstArgument(completePods(cluster)),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := checkPod(cmd, cluster, args[0])
			if err != nil {
				return err
			}
			err = output.print(streams.Out, report, func() error { return report.WriteText(streams.Out, terminal.PaletteFor(streams.Out)) })
			if err != nil {
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
	output.addTo(cmd)
	return cmd
}

// checkPod checks the Pod, or the workload, that an argument names.
func checkPod(cmd *cobra.Command, cluster *genericclioptions.ConfigFlags, arg string) (check.Report, error) {
	namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return check.Report{}, err
	}
	cfg, c, err := connect(cluster)
	if err != nil {
		return check.Report{}, err
	}
	named := types.NamespacedName{Namespace: namespace, Name: arg}
	kind, name, isTyped := strings.Cut(arg, "/")
	if !isTyped {
		return check.Pod(cmd.Context(), c, check.ExecIn(cfg), named), nil
	}
	gvk, err := c.RESTMapper().KindFor(schema.ParseGroupResource(strings.ToLower(kind)).WithVersion(""))
	if err != nil {
		return check.Report{}, err
	}
	named.Name = name
	if gvk == corev1.SchemeGroupVersion.WithKind("Pod") {
		return check.Pod(cmd.Context(), c, check.ExecIn(cfg), named), nil
	}
	workload := &unstructured.Unstructured{}
	workload.SetGroupVersionKind(gvk)
	if err := c.Get(cmd.Context(), named, workload); err != nil {
		return check.Report{}, err
	}
	return check.Workload(cmd.Context(), c, check.ExecIn(cfg), workload), nil
}

// connect returns a client for the cluster that flags and kubeconfig name, and how it gets there.
func connect(cluster *genericclioptions.ConfigFlags) (*rest.Config, client.Client, error) {
	cfg, err := cluster.ToRESTConfig()
	if err != nil {
		return nil, nil, err
	}
	mapper, err := cluster.ToRESTMapper()
	if err != nil {
		return nil, nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, nil, err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme, Mapper: mapper})
	return cfg, c, err
}
