package v1alpha1

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestEventsAreDocumented: each reason is in docs/events.md.
func TestEventsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "events.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	reasons := 0
	ast.Inspect(file, func(node ast.Node) bool {
		if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			reason, err := strconv.Unquote(literal.Value)
			if err != nil || !strings.Contains(string(page), "`"+reason+"`") {
				t.Errorf("docs/events.md does not explain %s (%v)", literal.Value, err)
			}
			reasons++
		}
		return true
	})
	if reasons < 10 {
		t.Errorf("found %d reasons only", reasons)
	}
}
