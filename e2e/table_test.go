//go:build long

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyferry/keyferry/e2e/release"
)

// table is one in Markdown.
func table(head []string, rows [][]string) string {
	var text strings.Builder
	for _, row := range append([][]string{head, strings.Split(strings.Repeat("---,", len(head)-1)+"---", ",")}, rows...) {
		fmt.Fprintf(&text, "| %s |\n", strings.Join(row, " | "))
	}
	return text.String()
}

// writeTable replaces a table of a page in docs, which stands between two comments with its name.
func writeTable(t *testing.T, page, name, text string) {
	t.Helper()
	server, err := suite.target.clientset.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(release.Root(), "docs", page)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- table "+name+", written by a test -->\n", "<!-- end of table "+name+" -->"
	before, rest, found := strings.Cut(string(content), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table %s", file, name)
	}
	seen := fmt.Sprintf("\nSeen on %s with Kubernetes %s.\n", time.Now().UTC().Format(time.DateOnly), server.GitVersion)
	if err := os.WriteFile(file, []byte(before+begin+text+seen+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
