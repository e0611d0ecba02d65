// Package monitoring holds dashboard and alerts to what the programs really serve: docs/metrics.md,
// which tests of the programs compare with what is scraped of them.
package monitoring

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// fromScrape are labels that the scraper adds; ofAlerts those of Prometheus' own series ALERTS.
var (
	fromScrape = []string{"instance", "job", "pod"}
	ofAlerts   = []string{"alertname", "alertstate", "severity"}
)

// served are the metrics that there are, with their labels.
func served(t *testing.T) map[string][]string {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (counter|gauge|histogram) \\| ([^|]*) \\| .+ \\|$")
	metrics := map[string][]string{"ALERTS": ofAlerts}
	for _, match := range row.FindAllStringSubmatch(read(t, "docs/metrics.md"), -1) {
		name, kind, list := match[1], match[2], strings.ReplaceAll(match[3], "`", "")
		var names []string
		if list != "–" {
			names = strings.Split(list, ", ")
		}
		if kind != "histogram" {
			metrics[name] = append(metrics[name], names...)
			continue
		}
		metrics[name+"_bucket"] = append(slices.Clone(names), "le")
		metrics[name+"_sum"], metrics[name+"_count"] = names, names
	}
	if len(metrics) < 20 {
		t.Fatalf("docs/metrics.md has %d metrics only: has its form changed?", len(metrics))
	}
	return metrics
}

// rule is an alert as it stands in the file.
type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func rules(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []rule `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "charts/keyferry/files/monitoring/rules.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

// queries are the expressions of the dashboard, by panel.
func queries(t *testing.T) map[string]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Type, Title, Description string
			Targets                  []struct{ RefID, Expr string }
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "charts/keyferry/files/monitoring/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, panel := range dashboard.Panels {
		if panel.Type != "row" && (len(panel.Targets) == 0 || panel.Description == "") {
			t.Errorf("panel %s has no query, or no description", panel.Title)
		}
		for _, target := range panel.Targets {
			all[panel.Title+" "+target.RefID] = target.Expr
		}
	}
	for _, variable := range dashboard.Templating.List {
		if name, ok := strings.CutPrefix(variable.Definition, "label_values("); ok {
			metric, label, _ := strings.Cut(strings.TrimSuffix(name, ")"), ", ")
			all["variable "+variable.Name] = fmt.Sprintf("sum by (%s) (%s)", label, metric)
		}
	}
	return all
}

func TestQueriesAskForWhatIsServed(t *testing.T) {
	metrics := served(t)
	for panel, expr := range queries(t) {
		check(t, metrics, "dashboard: "+panel, expr)
	}
	for _, r := range rules(t) {
		check(t, metrics, "alert "+r.Alert, r.Expr)
	}
}

// check looks for each metric and label of an expression among those that are served.
func check(t *testing.T, metrics map[string][]string, where, expr string) {
	t.Helper()
	expr = strings.NewReplacer("$__rate_interval", "5m", "$target", ".*").Replace(expr)
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	known := slices.Clone(fromScrape)
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		of, there := metrics[selector.Name]
		if !there {
			t.Errorf("%s: no program serves %s", where, selector.Name)
		}
		known = append(known, of...)
		for _, matcher := range selector.LabelMatchers {
			if matcher.Name != "__name__" && !slices.Contains(of, matcher.Name) {
				t.Errorf("%s: %s has no label %s", where, selector.Name, matcher.Name)
			}
		}
		return nil
	})
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		var names []string
		switch node := node.(type) {
		case *parser.AggregateExpr:
			names = node.Grouping
		case *parser.BinaryExpr:
			if node.VectorMatching != nil {
				names = slices.Concat(node.VectorMatching.MatchingLabels, node.VectorMatching.Include)
			}
		}
		for _, name := range names {
			if !slices.Contains(known, name) {
				t.Errorf("%s: none of its metrics has a label %s", where, name)
			}
		}
		return nil
	})
}

// TestEveryMetricOfOursIsLookedAt: what nobody looks at is not worth its memory.
func TestEveryMetricOfOursIsLookedAt(t *testing.T) {
	all := ""
	for _, expr := range queries(t) {
		all += expr + "\n"
	}
	for _, r := range rules(t) {
		all += r.Expr + "\n"
	}
	// Told by the chart value envFromFile, by keyferry check and by Events where it matters.
	exceptions := []string{"keyferry_admission_env_from_file", "keyferry_admission_image_volume", "keyferry_credentialrequest_issued_timestamp_seconds"}
	for _, name := range slices.Sorted(maps.Keys(served(t))) {
		base := strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count")
		if strings.HasPrefix(name, "keyferry_") && !slices.Contains(exceptions, name) && !strings.Contains(all, base) {
			t.Errorf("neither dashboard nor alerts look at %s", name)
		}
	}
}

// TestRunbooks: each alert leads to a section that says what to do, and each section belongs to an
// alert.
func TestRunbooks(t *testing.T) {
	const url = "https://github.com/keyferry/keyferry/blob/main/docs/runbooks.md#"
	sections := map[string]string{}
	for _, section := range strings.Split(read(t, "docs/runbooks.md"), "\n## ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		sections[title] = text
	}
	tests := read(t, "tools/monitoring/rules_test.yaml")
	for _, r := range rules(t) {
		if !strings.HasPrefix(r.Alert, "Keyferry") || r.Labels["severity"] != "warning" && r.Labels["severity"] != "critical" {
			t.Errorf("%s: begin the name with Keyferry, and give it a severity", r.Alert)
		}
		if r.Annotations["runbook_url"] != url+strings.ToLower(r.Alert) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s: annotations %v", r.Alert, r.Annotations)
		}
		text, ok := sections[r.Alert]
		if !ok {
			t.Errorf("docs/runbooks.md has no section %s", r.Alert)
		}
		for _, part := range []string{"**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Mitigation.**"} {
			if strings.Count(text, part) != 1 {
				t.Errorf("docs/runbooks.md, %s: no %s", r.Alert, part)
			}
		}
		delete(sections, r.Alert)
		if strings.Count(tests, `alertname="`+r.Alert+`",alertstate`) < 2 || !strings.Contains(tests, `labels: '{alertname="`+r.Alert+`"`) {
			t.Errorf("rules_test.yaml does not test %s both ways", r.Alert)
		}
	}
	for title := range sections {
		t.Errorf("docs/runbooks.md has a section %s, and there is no such alert", title)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
