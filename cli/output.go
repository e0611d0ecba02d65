package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// output is the flag --output of commands that tell something: it says for whom.
type output string

const (
	outputText output = "text"
	outputJSON output = "json"
	outputYAML output = "yaml"
)

// addTo adds the flag to a command.
func (o *output) addTo(cmd *cobra.Command) {
	cmd.Flags().VarP(o, "output", "o", "text, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{ // the flag is there
		"text\tfor people", "json\tfor programs", "yaml\tthe same as YAML",
	}, cobra.ShellCompDirectiveNoFileComp))
}

// print writes data, or has text written.
func (o output) print(w io.Writer, data any, text func() error) error {
	switch o {
	case outputJSON:
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(data)
	case outputYAML:
		raw, err := yaml.Marshal(data)
		if err != nil {
			return err
		}
		_, err = w.Write(raw)
		return err
	default:
		return text()
	}
}

// String, Set and Type make a flag of it.
func (o *output) String() string { return string(*o) }

// Set refuses what there is not.
func (o *output) Set(value string) error {
	switch output(value) {
	case outputText, outputJSON, outputYAML:
		*o = output(value)
		return nil
	default:
	}
	return fmt.Errorf("--output is %q: use text, json or yaml", value)
}

// Type is what help calls the value.
func (o *output) Type() string { return "FORMAT" }

// outputCSV is for commands with a table.
const outputCSV output = "csv"

// tableOutput is the flag --output of commands with a table.
type tableOutput struct{ output }

// addTo adds the flag to a command.
func (o *tableOutput) addTo(cmd *cobra.Command) {
	cmd.Flags().VarP(o, "output", "o", "text, json, yaml or csv")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{ // the flag is there
		"text\tfor people", "json\tfor programs", "yaml\tthe same as YAML", "csv\tfor spreadsheets",
	}, cobra.ShellCompDirectiveNoFileComp))
}

// Set accepts one format more than other commands do.
func (o *tableOutput) Set(value string) error {
	if output(value) == outputCSV {
		o.output = outputCSV
		return nil
	}
	if o.output.Set(value) != nil {
		return fmt.Errorf("--output is %q: use text, json, yaml or csv", value)
	}
	return nil
}
