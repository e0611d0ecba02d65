// Bench makes the tables of docs/performance.md out of what benchmarks print, Go's own format:
//
//	bench RESULTS PAGE
//
// It also prints them, and draws how things grow with the number of Pods, in a file beside PAGE
// that ends in .svg.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: bench RESULTS PAGE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(results, page string, stdout io.Writer) error {
	file, err := os.Open(results)
	if err != nil {
		return err
	}
	defer file.Close()
	measured, err := read(file, results)
	if err != nil {
		return err
	}
	tables := measured.about() + render(sections(), measured)
	fmt.Fprint(stdout, tables)
	if picture := svg(scale(), measured); picture != "" {
		file := strings.TrimSuffix(page, ".md") + ".svg"
		if err := os.WriteFile(file, []byte(picture), 0o600); err != nil {
			return err
		}
		tables += fmt.Sprintf("![Pods created per second, and memory and CPU of webhook and broker, over the number of Pods](%s)\n", filepath.Base(file))
	}
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	written, err := replace(string(text), tables)
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, []byte(written), 0o600)
}

// The lines between which the tables stand in the page.
const (
	begin = "<!-- generated: figures -->\n"
	end   = "<!-- end -->"
)

func replace(page, tables string) (string, error) {
	before, rest, found := strings.Cut(page, begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return "", fmt.Errorf("there are no lines %q and %q", strings.TrimSpace(begin), end)
	}
	return before + begin + "\n" + strings.TrimSpace(tables) + "\n\n" + end + after, nil
}
