// Man writes the manual pages of keyferry, from what its help says, into a folder.
package main

import (
	"errors"
	"fmt"
	"os"

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
	// Defaults that are in the home folder shall not be in that of whoever builds a release.
	if err := os.Setenv("HOME", "~"); err != nil {
		return err
	}
	if err := os.MkdirAll(args[0], 0o755); err != nil {
		return err
	}
	command := cli.Command(genericiooptions.NewTestIOStreamsDiscard())
	command.DisableAutoGenTag = true
	// The date is that of the environment's SOURCE_DATE_EPOCH.
	return doc.GenManTree(command, &doc.GenManHeader{Section: "1", Source: "Keyferry", Manual: "Keyferry"}, args[0])
}
