package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// results are what benchmarks reported: all values, by figure.
type results struct {
	values map[figure][]float64
	// config are the lines KEY: VALUE among them, such as those on the machine. The last ones count.
	config map[string]string
}

// figure is what a benchmark reports in one unit, such as the allocs/op of webhook.Admission/7KB:
// the last part of the package's path, then the benchmark's name. That has the number of processors
// behind it, as in webhook.Admission/7KB-2, only where benchmarks are run with several numbers.
// Times are in seconds.
type figure struct{ benchmark, unit string }

var processors = regexp.MustCompile(`-\d+$`)

// read reads Go's format of benchmark results (https://go.dev/design/14313-benchmark-format).
func read(r io.Reader, name string) (results, error) {
	all := results{values: map[figure][]float64{}, config: map[string]string{}}
	reader := benchfmt.NewReader(r, name)
	for reader.Scan() {
		switch record := reader.Result().(type) {
		case *benchfmt.SyntaxError:
			return results{}, record
		case *benchfmt.Result:
			pkg := record.GetConfig("pkg")
			full := pkg[strings.LastIndex(pkg, "/")+1:] + "." + string(record.Name.Full())
			for _, value := range record.Values {
				f := figure{full, value.Unit}
				all.values[f] = append(all.values[f], value.Value)
			}
			for _, line := range record.Config {
				all.config[line.Key] = string(line.Value)
			}
		}
	}
	return all, reader.Err()
}

// median of a figure, and whether there is one.
func (r results) median(f figure) (float64, bool) {
	values := r.values[f]
	for of := range r.values {
		if values == nil && of.unit == f.unit && processors.ReplaceAllString(of.benchmark, "") == f.benchmark {
			values = r.values[of]
		}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	switch {
	case n == 0:
		return 0, false
	case n%2 == 1:
		return sorted[n/2], true
	default:
		return (sorted[n/2-1] + sorted[n/2]) / 2, true
	}
}

// about says when, of what and on what machine the results are.
func (r results) about() string {
	var b strings.Builder
	b.WriteString("| | |\n|---|---|\n")
	for _, line := range []struct{ key, title string }{
		{"date", "date"}, {"commit", "Keyferry"}, {"go", "Go"}, {"kubernetes", "Kubernetes"},
		{"cpu", "processor"}, {"cores", "cores"}, {"memory", "memory"}, {"kernel", "kernel"}, {"load", "load average before"},
	} {
		if value := r.config[line.key]; value != "" {
			fmt.Fprintf(&b, "| %s | %s |\n", line.title, value)
		}
	}
	return b.String() + "\n"
}
