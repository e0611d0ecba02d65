// Package cli is the command keyferry, without the process: arguments and streams in, exit code out.
package cli

import (
	"context"
	"errors"
	"fmt"
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
  1  failed; standard error says why
  2  wrong usage`

// Run runs the command with arguments, which do not hold its name, and returns its exit code.
func Run(ctx context.Context, streams genericiooptions.IOStreams, args []string) int {
	root := newRoot(streams)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
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
	return ExitUsage
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

func newRoot(streams genericiooptions.IOStreams) *cobra.Command {
	cluster := genericclioptions.NewConfigFlags(true)
	root := &cobra.Command{
		Use:   "keyferry",
		Short: "Give Pods credentials for other clusters",
		Long: strings.TrimSpace(`
Keyferry makes "in-cluster" mean another cluster for a Pod: it writes one annotation,

    keyferry.dev/cluster: fleet/tenant-1

and its unmodified client works there, with a credential that is kept current.

`) + "\n\n" + exitCodes,
		Version:       version.String(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	root.SetVersionTemplate("{{.Version}}\n")
	cluster.AddFlags(root.PersistentFlags())
	issue := credential.Command(streams, cluster.Namespace)
	issue.RunE = failing(issue.RunE)
	root.AddCommand(newInject(streams, cluster), issue, newCheckCommand(streams, cluster), newCheckInstallation(streams, cluster), newConvert(streams, cluster))
	return root
}
