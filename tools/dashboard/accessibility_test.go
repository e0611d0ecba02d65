package dashboard_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// violation is a rule of axe that a page breaks.
type violation struct {
	ID    string `json:"id"`
	Help  string `json:"help"`
	Nodes []struct {
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

// accessible fails if axe finds that a page breaks a rule of WCAG 2.2 AA, or a best practice.
func (b *browser) accessible(page string) {
	b.tb.Helper()
	axe, err := os.ReadFile(filepath.Join("tools", "dashboard", "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		b.tb.Fatalf("%v: run make test-dashboard, which installs axe-core", err)
	}
	b.run(chromedp.Evaluate[chromedp.Void](string(axe) + ";undefined"))
	for _, v := range evaluate[[]violation](b, "axe.run().then((result) => result.violations)") {
		b.tb.Errorf("%q: %s: %s", page, v.ID, v.Help)
		for _, node := range v.Nodes {
			b.tb.Logf("  %.300s\n  %s", node.HTML, node.Summary)
		}
	}
}

// waitFor calls a function until it returns no error: rights take a moment.
func waitFor(tb testing.TB, try func() error) {
	tb.Helper()
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	end := time.After(pageTimeout)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ticks.C:
		case <-end:
			tb.Fatal(err)
		}
	}
}
