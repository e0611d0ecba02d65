package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	fileLink = regexp.MustCompile(`\[([^\]]+_test\.go)\]\(\.\./([^)]+)\)((?:,? ` + "`" + `(?:Test|Fuzz)\w+` + "`" + `)+)`)
	testName = regexp.MustCompile(`(?:Test|Fuzz)\w+`)
)

// TestThreatModel: each line of the threat model names a test, and each test that it names exists.
func TestThreatModel(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, model, ok := strings.Cut(string(text), "\n## Threat model\n")
	if !ok {
		t.Fatal("docs/security.md has no threat model")
	}
	known := map[string]map[string]bool{}
	lines, shown := 0, false
	for line := range strings.Lines(model) {
		switch line = strings.TrimSpace(line); {
		case !strings.HasPrefix(line, "|"):
			shown = false
			continue
		case strings.HasSuffix(line, "| shown by |"):
			shown = true
			continue
		case !shown || strings.Trim(line, "|-") == "":
			continue
		}
		lines++
		named := fileLink.FindAllStringSubmatch(line, -1)
		if len(named) == 0 {
			t.Errorf("this line names no test: %s", line)
		}
		for _, link := range named {
			file := link[2]
			if link[1] != file {
				t.Errorf("the link to %s leads to %s", link[1], file)
			}
			if known[file] == nil {
				known[file] = functions(t, filepath.Join(root, file))
			}
			for _, name := range testName.FindAllString(link[3], -1) {
				if !known[file][name] {
					t.Errorf("%s has no %s", file, name)
				}
			}
		}
	}
	if lines == 0 {
		t.Error("the threat model has no lines")
	}
}

// functions returns the names of those in a file.
func functions(t *testing.T, file string) map[string]bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, declaration := range parsed.Decls {
		if function, ok := declaration.(*ast.FuncDecl); ok && function.Recv == nil {
			names[function.Name.Name] = true
		}
	}
	return names
}
