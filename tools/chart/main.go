// Chart renders the chart by Helm's own engine, without a cluster:
//
//	chart render -out DIR [-kubernetes v1.36.3]    with each of its ci/*-values.yaml, one file for each
//	chart manifests -out DIR                       as it is without values, for kustomize
//	chart install -version v1.2.3 -out DIR         as install.yaml, for one kubectl apply
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("the command is missing: render, manifests or install")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	chart := flags.String("chart", "../../charts/keyferry", "folder of the chart")
	out := flags.String("out", "", "folder to write to")
	version := flags.String("version", "", "version of Keyferry in install.yaml, such as v1.2.3 (default: the chart's appVersion)")
	kubernetes := flags.String("kubernetes", "", "version of Kubernetes (default: the newest that Helm knows)")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return fmt.Errorf("making the folder of -out: %w", err)
	}
	switch args[0] {
	case "render":
		return renderAll(*chart, *out, *kubernetes)
	case "manifests":
		return writeManifests(*chart, *out)
	case "install":
		return writeInstall(*chart, *version, *out)
	default:
		return fmt.Errorf("unknown command %q: use render, manifests or install", args[0])
	}
}

// renderAll writes what the chart gives with each of the values that are kept for tests.
func renderAll(chart, out, kubernetes string) error {
	files, err := filepath.Glob(filepath.Join(chart, "ci", "*-values.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no ci/*-values.yaml in %s: %w", chart, err)
	}
	for _, file := range files {
		values, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		rendered, err := render(chart, options{values: string(values), kubernetes: kubernetes, apis: []string{prometheusOperator}})
		if err != nil {
			return fmt.Errorf("rendering with %s: %w", file, err)
		}
		var all strings.Builder
		for _, template := range rendered.templates() {
			fmt.Fprintf(&all, "---\n# %s\n%s\n", template, rendered[template])
		}
		if err := os.WriteFile(filepath.Join(out, filepath.Base(file)), []byte(all.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
