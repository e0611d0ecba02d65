// Package metricstest compares the metrics of programs with the documentation and with the
// conventions of Prometheus. It is for tests.
package metricstest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/keyferry/keyferry/internal/generated"
)

// ofLibraries are the metrics of libraries that the dashboard and the alerts use. The libraries
// have many more.
var ofLibraries = []string{
	"certwatcher_read_certificate_errors_total", "certwatcher_read_certificate_total",
	"controller_runtime_reconcile_errors_total", "controller_runtime_reconcile_total",
	"leader_election_master_status",
	"process_cpu_seconds_total", "process_resident_memory_bytes",
	"rest_client_requests_total",
	"workqueue_depth",
}

// fromScrape are labels that Prometheus or its operator add. A metric must not have a label with
// such a name, because one of the two values would be lost.
var fromScrape = []string{"cluster", "container", "endpoint", "instance", "job", "namespace", "node", "pod", "service"}

// Check compares the metrics of a program with its section of docs/metrics.md, which it writes if
// update is true, and checks the conventions.
func Check(t testing.TB, program, scraped string, update bool) {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(scraped))
	if err != nil {
		t.Fatalf("what is served at /metrics: %v", err)
	}
	var table strings.Builder
	table.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(families)) {
		family := families[name]
		ours := strings.HasPrefix(name, "keyferry_")
		if !ours && !slices.Contains(ofLibraries, name) {
			continue
		}
		labels := labelsOf(family)
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(family.GetType().String()), code(labels), family.GetHelp())
		if ours {
			checkConventions(t, family, labels)
		}
	}
	generated.Check(t, "metrics.md", program, table.String(), update)
}

func checkConventions(t testing.TB, family *dto.MetricFamily, labels []string) {
	t.Helper()
	problems, err := promlint.NewWithMetricFamilies([]*dto.MetricFamily{family}).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
	for _, label := range labels {
		if slices.Contains(fromScrape, label) {
			t.Errorf("%s: a scrape has a label %q of its own", family.GetName(), label)
		}
	}
}

func labelsOf(family *dto.MetricFamily) []string {
	names := map[string]bool{}
	for _, metric := range family.GetMetric() {
		for _, pair := range metric.GetLabel() {
			names[pair.GetName()] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func code(labels []string) string {
	if len(labels) == 0 {
		return "–"
	}
	return "`" + strings.Join(labels, "`, `") + "`"
}
