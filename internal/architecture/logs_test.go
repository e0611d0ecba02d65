package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestLogKeysAreDocumented: in logs, one thing has one name. docs/logs.md
// lists the names.
func TestLogKeysAreDocumented(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "logs.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| key | value |")
	if !found {
		t.Fatal("docs/logs.md has no table of keys")
	}
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| ((?:`[a-zA-Z]+`(?:, )?)+) \\|").FindAllStringSubmatch(table, -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			documented[strings.Trim(name, "`")] = true
		}
	}
	used := map[string]token.Position{}
	for _, dir := range []string{"broker", "cmd", "clusterprofile", "controller", "internal/serving", "issuer", "providers", "refresher", "webhook"} {
		keysBelow(t, filepath.Join(root, dir), used)
	}
	for _, key := range slices.Sorted(maps.Keys(used)) {
		if !documented[key] {
			t.Errorf("%s: the log key %q is not in docs/logs.md: use one that is, or add it", used[key], key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(documented)) {
		if _, ok := used[key]; !ok {
			t.Errorf("docs/logs.md has a key %q that nothing logs", key)
		}
	}
}

// keysBelow adds the keys that Go files below a folder log with.
func keysBelow(t *testing.T, dir string, used map[string]token.Position) {
	t.Helper()
	files := token.NewFileSet()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(node ast.Node) bool {
			for _, key := range keysOf(node) {
				if name, err := strconv.Unquote(key.Value); err == nil {
					used[name] = files.Position(key.Pos())
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// keysOf returns the keys of a call of a logger, or of a list of keys and values that is made for
// one.
func keysOf(node ast.Node) []*ast.BasicLit {
	switch node := node.(type) {
	case *ast.CompositeLit:
		if list, ok := node.Type.(*ast.ArrayType); ok && list.Len == nil && types.ExprString(list.Elt) == "any" && pairs(node.Elts) {
			return everySecond(node.Elts)
		}
	case *ast.CallExpr:
		if appended, ok := node.Fun.(*ast.Ident); ok && appended.Name == "append" && len(node.Args) > 2 && pairs(node.Args[1:]) && isString(node.Args[1]) {
			return everySecond(node.Args[1:])
		}
		method, ok := node.Fun.(*ast.SelectorExpr)
		if !ok || !regexp.MustCompile(`(?i)(log|audit)`).MatchString(types.ExprString(method.X)) {
			return nil
		}
		args := node.Args
		switch method.Sel.Name {
		case "WithValues", "With":
		case "Info", "Warn", "Debug", "Error":
			if len(args) > 0 && !isString(args[0]) {
				args = args[1:] // logr's Error begins with the error
			}
			if len(args) > 0 {
				args = args[1:]
			}
		default:
			return nil
		}
		return everySecond(args)
	}
	return nil
}

// pairs reports whether a list begins with a key.
func pairs(list []ast.Expr) bool { return len(list) >= 2 && len(list)%2 == 0 && isString(list[0]) }

func everySecond(list []ast.Expr) []*ast.BasicLit {
	var keys []*ast.BasicLit
	for i := 0; i < len(list); i += 2 {
		if key, ok := list[i].(*ast.BasicLit); ok && key.Kind == token.STRING {
			keys = append(keys, key)
		}
	}
	return keys
}

func isString(e ast.Expr) bool {
	literal, ok := e.(*ast.BasicLit)
	return ok && literal.Kind == token.STRING
}
