package cli

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/internal/generated"
)

// TestReference holds docs/commands.md to what the commands say of themselves.
func TestReference(t *testing.T) {
	t.Setenv("HOME", "~") // which is in defaults
	var page strings.Builder
	for _, cmd := range commands(Command(genericiooptions.NewTestIOStreamsDiscard())) {
		var help strings.Builder
		cmd.SetOut(&help)
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&page, "## %s\n\n```text\n%s\n```\n\n", cmd.CommandPath(), strings.TrimSpace(help.String()))
	}
	generated.Check(t, "commands.md", "keyferry", page.String(), *update)
}

// TestExitCodes: every command tells what its exit codes mean, and takes a flag that it does not
// have, one without its value, and an argument too many for wrong usage.
func TestExitCodes(t *testing.T) {
	for _, cmd := range commands(Command(genericiooptions.NewTestIOStreamsDiscard())) {
		t.Run(cmd.CommandPath(), func(t *testing.T) {
			if !strings.Contains(cmd.Long, "Exit codes:\n  0  ") {
				t.Errorf("its help does not tell them:\n%s", cmd.Long)
			}
			wrong := [][]string{{"--no-such-flag"}, {"--namespace"}}
			if cmd.Runnable() {
				wrong = append(wrong, []string{"a/b/c", "d/e/f"})
			}
			for _, args := range wrong {
				code, stdout, stderr := keyferry(t, "", append(strings.Fields(cmd.CommandPath())[1:], args...)...)
				if code != ExitUsage || stdout != "" || !strings.HasPrefix(stderr, "error: ") {
					t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
				}
			}
		})
	}
}

// commands are a command and all below it, in the order of help.
func commands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			all = append(all, commands(sub)...)
		}
	}
	return all
}
