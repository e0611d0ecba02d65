// Reference writes the pages of docs/ that list what is defined elsewhere:
//
//	reference api CRD.yaml...      fields of custom resources, from what controller-gen made of the types
//	reference values VALUES.yaml   the chart's values, from the comments beside them
//	reference compatibility RESULTS.json PAGE.md
//	                               the page with the table of what the end-to-end tests have seen on each Kubernetes
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

func main() {
	page, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
	fmt.Print(page)
}

func run(args []string) (string, error) {
	if len(args) < 2 {
		return "", errors.New("usage: reference api|values|compatibility FILE...")
	}
	var contents []string
	for _, file := range args[1:] {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		contents = append(contents, string(content))
	}
	switch args[0] {
	case "api":
		return api(contents)
	case "values":
		return values(contents[0])
	case "compatibility":
		if len(contents) != 2 {
			return "", errors.New("compatibility takes the results and the page")
		}
		return compatibility(contents[0], contents[1])
	default:
		return "", fmt.Errorf("%q is neither api, values nor compatibility", args[0])
	}
}

// row is a line of a Markdown table.
func row(cells ...string) string {
	for i, cell := range cells {
		cell = strings.Join(strings.Fields(cell), " ")
		// HTML would hide words like <name>.
		cells[i] = strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(cell)
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// code is text as code, or nothing if there is none.
func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
