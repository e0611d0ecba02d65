package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/cli/managed"
)

// preview is the flags --dry-run and --output of commands that write objects. They mean the same as
// kubectl's.
type preview struct {
	dryRun string
	output string
}

func (p *preview) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.dryRun, "dry-run", "none", `none, or client: only print the changes`)
	cmd.Flags().StringVarP(&p.output, "output", "o", "", "with --dry-run=client: yaml or json, to print the objects")
	for flag, values := range map[string][]string{"dry-run": {"none", "client"}, "output": {"yaml", "json"}} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // the flags are there
	}
}

// check refuses values that the flags do not have.
func (p *preview) check() error {
	switch {
	case p.dryRun != "none" && p.dryRun != "client":
		return fmt.Errorf("--dry-run is %q: use none or client", p.dryRun)
	case p.output != "" && p.output != "yaml" && p.output != "json":
		return fmt.Errorf("--output is %q: use yaml or json", p.output)
	case p.output != "" && !p.isDryRun():
		return errors.New("--output works only with --dry-run=client: add --dry-run=client")
	}
	return nil
}

func (p *preview) isDryRun() bool { return p.dryRun == "client" }

// section is a part of the objects of a preview: those of one cluster.
type section struct {
	// comment is printed before the objects in YAML; empty for none.
	comment string
	objects []client.Object
}

// write prints the objects, or a line for each that says what would become of it.
func (p *preview) write(out io.Writer, outcome managed.Outcome, sections ...section) error {
	var all []any
	for _, s := range sections {
		comment := s.comment
		for _, object := range s.objects {
			marked, err := managed.Mark(object)
			if err != nil {
				return err
			}
			switch p.output {
			case "json":
				all = append(all, marked.Object)
			case "yaml":
				text, err := yaml.Marshal(marked.Object)
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(out, "---\n%s%s", comment, text); err != nil {
					return err
				}
				comment = ""
			default:
				if _, err := fmt.Fprintf(out, "%s %s (dry run)\n", managed.Name(marked), outcome); err != nil {
					return err
				}
			}
		}
	}
	if p.output != "json" {
		return nil
	}
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": all}
	return outputJSON.print(out, list, nil)
}
