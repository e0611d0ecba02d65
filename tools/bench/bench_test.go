package main

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const printed = `date: 2026-01-02
cores: 2
goos: linux
pkg: github.com/keyferry/keyferry/webhook
cpu: A Processor
BenchmarkAdmission/7KB-2   	    1000	    200 ns/op	   9000 B/op	     130 allocs/op
BenchmarkAdmission/7KB-2   	    1000	    400 ns/op	   9000 B/op	     130 allocs/op
BenchmarkAdmission/7KB-2   	    1000	    300 ns/op	   9000 B/op	     130 allocs/op
BenchmarkFullDecode/7KB-2  	    1000	   1000 ns/op	  30000 B/op	     350 allocs/op
BenchmarkAdmissionParallel 	    1000	    300 ns/op
BenchmarkAdmissionParallel-2	    1000	    150 ns/op
PASS
pkg: github.com/keyferry/keyferry/bench
BenchmarkCreate/with-2     	       1	    5000000 ns/op	   0.004 p50-sec
BenchmarkCreate/without-2  	       1	    5000000 ns/op	   0.003 p50-sec
`

func measured(t *testing.T) results {
	t.Helper()
	r, err := read(strings.NewReader(printed), "printed")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMedian(t *testing.T) {
	r := measured(t)
	for f, want := range map[figure]float64{
		{"webhook.Admission/7KB", "sec/op"}:       300e-9,
		{"webhook.Admission/7KB-2", "allocs/op"}:  130,
		{"webhook.AdmissionParallel", "sec/op"}:   300e-9,
		{"webhook.AdmissionParallel-2", "sec/op"}: 150e-9,
		{"bench.Create/with", "p50-sec"}:          0.004,
	} {
		if got, ok := r.median(f); !ok || got < want*0.999 || got > want*1.001 {
			t.Errorf("%v: %v, want %v", f, got, want)
		}
	}
	if _, ok := r.median(figure{"webhook.None", "sec/op"}); ok {
		t.Error("a benchmark that was not run has a median")
	}
}

func TestRender(t *testing.T) {
	webhook := func(name, unit string) figure { return figure{"webhook." + name, unit} }
	tests := map[string]struct {
		row  row
		want string
	}{
		"ratio":      {row{"", webhook("Admission/7KB", "sec/op"), webhook("FullDecode/7KB", "sec/op"), ratio, atMost(0.6)}, "0.3 µs | 1 µs | 0.3 × | ≤ 0.6 × | holds"},
		"missed":     {row{"", webhook("Admission/7KB", "allocs/op"), figure{}, alone, atMost(120)}, "130 allocs |  |  | ≤ 120 allocs | **missed**"},
		"with floor": {row{"", webhook("Admission/7KB", "B/op"), webhook("FullDecode/7KB", "B/op"), alone, atMost(15e3)}, "9 KB | 30 KB |  | ≤ 15 KB | holds"},
		"difference": {row{"", figure{"bench.Create/with", "p50-sec"}, figure{"bench.Create/without", "p50-sec"}, addition, atMost(0.0004)}, "4 ms | 3 ms | + 1 ms | ≤ 400 µs | **missed**"},
		"at least":   {row{"", webhook("AdmissionParallel-2", "sec/op"), webhook("FullDecode/7KB", "sec/op"), inverse, atLeast(1.8)}, "0.15 µs | 1 µs | 6.67 × | ≥ 1.8 × | holds"},
		"no budget":  {row{"", figure{"bench.Create/with", "p50-sec"}, figure{}, alone, budget{}}, "4 ms |  |  |  | "},
		"not run":    {row{"", webhook("None", "sec/op"), figure{}, alone, atMost(1)}, "not run |  |  |  | "},
		"no floor":   {row{"", webhook("Admission/7KB", "sec/op"), webhook("None", "sec/op"), ratio, atMost(1)}, "not run |  |  |  | "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(test.row.cells(measured(t)), " | "); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestShow(t *testing.T) {
	for want, of := range map[string]struct {
		value float64
		unit  string
	}{
		"1234 req/s": {1234.4, "req/s"}, "12.3 MB/s": {12.34e6, "B/s"}, "2.5 MiB": {2.5, "rss-MiB"}, "3.2 s/GB": {3.2, "cpu-sec/GB"}, "0": {0, ""},
		"7.46 MB": {7458978, "B"}, "0.333 ×": {1.0 / 3, "ratio"}, "50 issues": {50, "issues"}, "99.5 ms": {0.0995, "p99-sec"},
	} {
		if got := strings.TrimSpace(show(of.value, of.unit)); got != want {
			t.Errorf("%v %s is %q, want %q", of.value, of.unit, got, want)
		}
	}
}

// TestPage: the page keeps what is around the tables, and a second run changes nothing.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	results, page := filepath.Join(dir, "bench.txt"), filepath.Join(dir, "performance.md")
	for file, text := range map[string]string{results: printed, page: "# Performance\n" + begin + "old\n" + end + "\nnotes\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var texts []string
	for range 2 {
		var stdout strings.Builder
		if err := run(results, page, &stdout); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
		if !strings.Contains(stdout.String(), "### Admission") {
			t.Errorf("printed %s", stdout.String())
		}
	}
	got := texts[0]
	if !strings.HasPrefix(got, "# Performance\n"+begin) || !strings.HasSuffix(got, end+"\nnotes\n") || strings.Contains(got, "\nold") || got != texts[1] {
		t.Errorf("the page is\n%s", got)
	}
	for _, want := range []string{"| cores | 2 |", "| processor | A Processor |", "| 0.3 × | ≤ 0.6 × | holds |", "| 2 × | ≥ 1.8 × | holds |"} {
		if !strings.Contains(got, want) {
			t.Errorf("the page lacks %s:\n%s", want, got)
		}
	}
	if _, err := replace("nothing", "x"); err == nil {
		t.Error("a page without a place for the tables is taken")
	}
}

// TestPlot: there is a picture once all of it was measured, and it is XML.
func TestPlot(t *testing.T) {
	if got := svg(scale(), measured(t)); got != "" {
		t.Errorf("drew what was not measured: %s", got)
	}
	text := "pkg: github.com/keyferry/keyferry/bench\n"
	for _, pods := range []string{"1000", "3000", "10000"} {
		text += "BenchmarkScale/" + pods + "-2 1 5 ns/op 300 without-pods/s 250 with-pods/s 60 webhook-rss-MiB 90 broker-rss-MiB 0.001 webhook-cpu-sec/pod 0.002 broker-cpu-sec/pod\n"
	}
	r, err := read(strings.NewReader(text), "printed")
	if err != nil {
		t.Fatal(err)
	}
	got := svg(scale(), r)
	if err := xml.Unmarshal([]byte(got), new(struct{})); err != nil || strings.Count(got, "<polyline") != 6 || strings.Contains(got, "NaN") {
		t.Errorf("%v: %s", err, got)
	}
}
