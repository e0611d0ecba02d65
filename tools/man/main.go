// Man writes what goes along with keyferry into a folder: its manual pages, from what its help
// says, in man, and for shells what completes it, in completion.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/cli"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("wrong usage: man FOLDER")
	}
	// Defaults that are in the home folder must not be in that of the user who builds a release.
	if err := os.Setenv("HOME", "~"); err != nil {
		return err
	}
	man, completion := filepath.Join(args[0], "man"), filepath.Join(args[0], "completion")
	for _, dir := range []string{man, completion} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	command := cli.Command(genericiooptions.NewTestIOStreamsDiscard())
	return errors.Join(writePages(command, man), writeCompletion(command, completion))
}

func writePages(command *cobra.Command, dir string) error {
	command.DisableAutoGenTag = true
	// The date is that of the environment's SOURCE_DATE_EPOCH.
	return doc.GenManTree(command, &doc.GenManHeader{Section: "1", Source: "Keyferry", Manual: "Keyferry"}, dir)
}

// writeCompletion writes what keyferry completion prints, under the names that the shells look for.
func writeCompletion(command *cobra.Command, dir string) error {
	return errors.Join(
		command.GenBashCompletionFileV2(filepath.Join(dir, "keyferry.bash"), true),
		command.GenZshCompletionFile(filepath.Join(dir, "_keyferry")),
		command.GenFishCompletionFile(filepath.Join(dir, "keyferry.fish"), true),
	)
}
