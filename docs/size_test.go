package docs_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/internal/generated"
)

var update = flag.Bool("update", false, "write the table of docs/tasks/size.md")

const (
	// exchanges are the requests of a sidecar to the broker in a minute, and reviews those of the
	// broker to the API server for it.
	exchanges = 1.0
	reviews   = 1.0 / 3
)

// TestSizes: the table of sizes follows from the measurements and from the requests in the chart.
func TestSizes(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("performance.md")
	if err != nil {
		t.Fatal(err)
	}
	measured := figures(t, string(page))
	cpu, memory := sidecarRequests(t)
	resident := measured["resident memory"]
	answers := measured["unchanged (304), new connection for each request, as from refreshers"]

	columns := []int{100, 1000, 5000, 10000}
	rows := []struct {
		name string
		cell func(pods int) string
	}{
		{"sidecars: CPU requests", func(n int) string { return short(float64(n)*cpu) + " CPUs" }},
		{"sidecars: memory requests", func(n int) string { return short(float64(n)*memory/(1<<30)) + " GiB" }},
		{"sidecars: memory in use", func(n int) string { return short(float64(n)*resident/1024) + " GiB" }},
		{"requests to the broker", func(n int) string { return short(float64(n)*exchanges/60) + " a second" }},
		{"CPU of the broker", func(n int) string { return short(100*float64(n)*exchanges/60/answers) + " % of a core" }},
		{"TokenReviews", func(n int) string { return short(float64(n)*reviews/60) + " a second" }},
		{"memory of a webhook", func(n int) string {
			return fmt.Sprintf("%.0f MiB", measuredFor(t, measured, n, "resident memory of the webhook"))
		}},
		{"memory of a broker", func(n int) string {
			return fmt.Sprintf("%.0f MiB", measuredFor(t, measured, n, "resident memory of the broker"))
		}},
	}
	var table strings.Builder
	table.WriteString("| | 100 Pods | 1,000 Pods | 5,000 Pods | 10,000 Pods |\n|---|---|---|---|---|\n")
	for _, row := range rows {
		table.WriteString("| " + row.name)
		for _, pods := range columns {
			table.WriteString(" | " + row.cell(pods))
		}
		table.WriteString(" |\n")
	}
	generated.Check(t, "tasks/size.md", "sizes", table.String(), *update)
}

// short returns a number with two digits, or without decimals.
func short(number float64) string {
	if number >= 10 {
		return fmt.Sprintf("%.0f", number)
	}
	return fmt.Sprintf("%.2g", number)
}

// figures returns the measurements of the page about performance, by the name of their row. Of
// several rows with the same name, it returns the first.
func figures(t *testing.T, page string) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([^|]+) \| ([0-9.]+) `).FindAllStringSubmatch(page, -1) {
		if _, ok := all[m[1]]; ok {
			continue
		}
		value, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		all[m[1]] = value
	}
	return all
}

// measuredFor returns a figure for a number of Pods: the measurement for this number, or for the
// next larger one.
func measuredFor(t *testing.T, measured map[string]float64, pods int, what string) float64 {
	t.Helper()
	for _, n := range []int{1000, 3000, 10000} {
		value, ok := measured[fmt.Sprintf("%d Pods: %s", n, what)]
		if n >= pods && ok {
			return value
		}
	}
	t.Fatalf("performance.md has no figure for %d Pods: %s", pods, what)
	return 0
}

// sidecarRequests returns the CPUs and the bytes of memory that a sidecar requests by default.
func sidecarRequests(t *testing.T) (cpu, memory float64) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "charts", "keyferry", "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		Refresher struct {
			Resources struct {
				Requests struct{ CPU, Memory resource.Quantity }
			}
		}
	}
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	requests := values.Refresher.Resources.Requests
	return requests.CPU.AsApproximateFloat64(), requests.Memory.AsApproximateFloat64()
}
