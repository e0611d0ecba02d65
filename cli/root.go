// Package cli is the command keyferry, without the process: arguments and streams in, exit code
// out.
package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/cli/credential"
	"github.com/keyferry/keyferry/internal/version"
)

// The exit codes of the command; check has its own.
const (
	ExitOK = iota
	// ExitFailed: what was asked for could not be done.
	ExitFailed
	// ExitUsage: the command line makes no sense.
	ExitUsage
)

const exitCodes = `Exit codes:
  0  done
  1  failed; standard error contains the reason
  2  wrong usage`

// Of the help of each command: kubectl's flags, twenty of them, stand in that of the root alone.
const (
	inheritedFlags = "Global Flags:\n{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}"
	kubectlFlags   = `The command accepts the flags of kubectl that select a cluster, such as --context, --namespace and --as. "{{.Root.CommandPath}} --help" lists them.`
)

// Run runs the command with the arguments of a process, of which the first is what it was called
// as, and returns its exit code.
func Run(ctx context.Context, streams genericiooptions.IOStreams, args []string) int {
	root := Command(streams)
	root.SetArgs(args[1:])
	if strings.HasPrefix(filepath.Base(args[0]), "kubectl-") {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl keyferry"}
	}
	if root.Annotations != nil {
		nameAsPlugin(root)
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	if code, ok := errors.AsType[checked](err); ok {
		return int(code)
	}
	_, _ = fmt.Fprintf(streams.ErrOut, "error: %v\n", err)
	if _, ok := errors.AsType[*failure](err); ok {
		return ExitFailed
	}
	_, _ = fmt.Fprintf(streams.ErrOut, "usage: %s\nexamples and flags: %s --help\n", cmd.UseLine(), cmd.CommandPath())
	return ExitUsage
}

// ownName is the name of the command in front of one of its subcommands.
var ownName = regexp.MustCompile(`(^|[\s"|])keyferry ([a-z])`)

// nameAsPlugin makes help and examples name the plugin of kubectl.
func nameAsPlugin(cmd *cobra.Command) {
	for _, text := range []*string{&cmd.Long, &cmd.Example} {
		*text = ownName.ReplaceAllString(*text, "${1}kubectl keyferry $2")
	}
	for _, sub := range cmd.Commands() {
		nameAsPlugin(sub)
	}
}

// failure is an error of a command that has begun its work; any other is one of usage.
type failure struct{ error }

func (f *failure) Unwrap() error { return f.error }

// failing makes errors of run failures.
func failing(run func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := run(cmd, args); err != nil {
			return &failure{err}
		}
		return nil
	}
}

// Command is the whole command, for its manual.
func Command(streams genericiooptions.IOStreams) *cobra.Command {
	cluster := genericclioptions.NewConfigFlags(true)
	root := &cobra.Command{
		Use:   "keyferry",
		Short: "Give Pods credentials for other clusters",
		Long: strings.TrimSpace(`
Keyferry gives a Pod credentials for another cluster, and renews them. With the annotation

    keyferry.dev/cluster: fleet/tenant-1

the Pod's unmodified in-cluster client connects to the cluster of the TargetCluster fleet/tenant-1.

As a plugin of kubectl, the command is "kubectl keyferry" (the program is named kubectl-keyferry).
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  # Register a cluster of your kubeconfig, and allow a ServiceAccount to use it
  keyferry target add fleet/tenant-1 --context tenant-1 --role view
  keyferry grant fleet/tenant-1 app/web

  # Why does a Pod not get its credential?
  keyferry check web-5d8f -n app

  # Which Pods use which clusters, and when do credentials expire?
  keyferry status -A

  # What would the webhook do?
  keyferry inject -f deployment.yaml | diff deployment.yaml -

  # Test a TargetCluster before you apply it
  keyferry credential -f tenant-1.yaml --verify -o kubeconfig > tenant-1.kubeconfig

  # Convert the requests of NVIDIA DPF
  kubectl get dpuservicecredentialrequests -A -o yaml | keyferry convert -f -
`, "\n"),
		Version:       version.String(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), inheritedFlags, kubectlFlags, 1))
	cluster.AddFlags(root.PersistentFlags())
	issue := credential.Command(streams, cluster.Namespace)
	issue.RunE = failing(issue.RunE)
	_ = issue.RegisterFlagCompletionFunc("target", completeTargetClusters(cluster)) // the flag is there
	completeClusterFlags(root, cluster)
	root.AddCommand(newTarget(streams, cluster), newCheckCommand(streams, cluster), newStatus(streams, cluster), newDashboard(streams, cluster), newGrant(streams, cluster), newRevoke(streams, cluster),
		newLock(streams, cluster), newUnlock(streams, cluster), newLocks(streams, cluster),
		newInject(streams, cluster), issue, newConvert(streams, cluster), newLogs(streams, cluster), newEvents(streams, cluster), newCheckInstallation(streams, cluster), newVersion(streams, cluster))
	addCompletion(root)
	return root
}

// addCompletion adds cobra's commands for the completion of shells.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	completion, _, _ := root.Find([]string{"completion"}) // it has just been added
	for _, cmd := range append(completion.Commands(), completion) {
		cmd.Long = strings.TrimSpace(cmd.Long) + "\n\n" + exitCodes
	}
}
