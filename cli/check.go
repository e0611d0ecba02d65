package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/cli/terminal"
)

// checked is the exit code of check if a check failed. The report is already printed.
type checked int

// The values of checked.
const (
	errWrong   checked = 1
	errUnknown checked = 2
)

func (checked) Error() string { return "a check failed" }

func newCheckCommand(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	output := outputText
	before, after := false, false
	cmd := &cobra.Command{
		Use:   "check [POD | KIND/NAME]",
		Short: "Check a Pod, the installation, or a cluster before the installation",
		Long: `Check whether a Pod gets its credential. If the Pod gets no credential, the command prints the reason and the
fix. The command checks each step: the annotation, the TargetCluster and its conditions, the permission, the injection,
the sidecar, and the credential. For a workload, such as deployment/web, the command checks the newest Pod.

Without an argument, check the installation: resources, Deployments, certificates, policies, and whether the API server
calls the webhook (a dry run that creates no Pod). The command connects only to the API server, so you can run it on
your own machine. "keyferry check-installation", which runs in a Pod, also connects to the webhooks and the broker.

With --pre, check a cluster before the installation: the cluster's versions, your permissions, and features that only
some clusters have.

With --uninstall, check that Keyferry can be removed: no CredentialRequest has credentials that only the controller can
revoke. "helm uninstall" runs this check first.

Exit codes:
  0  all checks passed
  1  a check failed
  2  a check could not run, or wrong usage`,
		Example: `  # Step by step, with the fix for each failed step
  keyferry check web-5d8f -n app
  keyferry check deployment/web -n app

  # The installation, and a cluster before the installation
  keyferry check
  keyferry check --pre
  keyferry check --uninstall

  # For a script
  keyferry check web-5d8f -n app -o json | jq -r '.checks[] | select(.result != "OK") | .message'`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return errors.New("check one Pod or workload at a time, such as web-5d8f or deployment/web")
			case before && len(args) > 0:
				return errors.New("--pre checks the cluster, not a Pod: remove --pre or the Pod")
			case after && len(args) > 0:
				return errors.New("--uninstall checks the cluster, not a Pod: remove --uninstall or the Pod")
			case before && after:
				return errors.New("--pre and --uninstall exclude each other: remove one of them")
			}
			return nil
		},
		ValidArgsFunction: firstArgument(completePods(cluster)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var report check.Report
			var err error
			switch {
			case before:
				report, err = checkBefore(cmd, cluster)
			case after:
				report, err = checkUninstall(cmd.Context(), cluster)
			case len(args) == 0:
				report, err = checkInstalled(cmd.Context(), cluster)
			default:
				report, err = checkPod(cmd, cluster, args[0])
			}
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
	cmd.Flags().BoolVar(&before, "pre", false, "check the cluster before you install Keyferry in the namespace of --namespace (default: keyferry-system)")
	cmd.Flags().BoolVar(&after, "uninstall", false, "check that Keyferry can be removed without losing revocations")
	output.addTo(cmd)
	return cmd
}

// checkInstalled checks the installation.
func checkInstalled(ctx context.Context, cluster *genericclioptions.ConfigFlags) (check.Report, error) {
	pods, _, err := cluster.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return check.Report{}, err
	}
	_, c, err := connect(cluster)
	if err != nil {
		return check.Report{}, err
	}
	namespace, err := installedIn(ctx, c)
	if errors.Is(err, errNotInstalled) {
		return check.NotInstalled(), nil
	} else if err != nil {
		return check.Report{}, err
	}
	return check.Installation(ctx, c, namespace, pods), nil
}

// checkBefore checks a cluster before the installation.
func checkBefore(cmd *cobra.Command, cluster *genericclioptions.ConfigFlags) (check.Report, error) {
	cfg, c, err := connect(cluster)
	if err != nil {
		return check.Report{}, err
	}
	clients, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return check.Report{}, err
	}
	server, err := clients.ServerVersion()
	if err != nil {
		return check.Report{}, fmt.Errorf("reading the version of the API server: %w", err)
	}
	return check.Prerequisites(cmd.Context(), c, cmp.Or(*cluster.Namespace, "keyferry-system"), server.GitVersion), nil
}

// checkUninstall checks that Keyferry can be removed from a cluster.
func checkUninstall(ctx context.Context, cluster *genericclioptions.ConfigFlags) (check.Report, error) {
	_, c, err := connect(cluster)
	if err != nil {
		return check.Report{}, err
	}
	return check.Uninstall(ctx, c), nil
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
