package main

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// speaking are the functions whose string literals are messages: errors, Events, warnings and log
// lines.
var speaking = []string{"New", "Errorf", "Sprintf", "Eventf", "Info", "Error", "Warn", "add", "invalid"}

// readMessages returns the messages in the Go sources of the programs: not of tests, and not of
// tools.
func readMessages(root string) ([]sentence, error) {
	var all []sentence
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		page, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			isOther := slices.Contains([]string{"bench", "dist", "docs", "e2e", "internal/testenv", "tools"}, page)
			isForTests := strings.HasSuffix(page, "test") // such as providers/providertest
			if isOther || isForTests || strings.HasPrefix(d.Name(), ".") && page != "." {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		found, err := messages(page, path)
		all = append(all, found...)
		return err
	})
	return all, err
}

// messages returns the messages in a Go file.
func messages(page, path string) ([]sentence, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var all []sentence
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || !slices.Contains(speaking, name(call.Fun)) {
			return true
		}
		for _, argument := range call.Args {
			if text := strings.Join(strings.Fields(literal(argument)), " "); text != "" {
				all = append(all, sentence{page: page, line: files.Position(argument.Pos()).Line, text: text, printed: true})
			}
		}
		return true
	})
	return all, nil
}

// name returns the name of a function, without its package or receiver.
func name(function ast.Expr) string {
	switch f := function.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// literal returns a string literal, or the literals of a sum of strings, with %s for the other
// parts of the sum. It returns the empty string for all other expressions.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return text
		}
	case *ast.BinaryExpr:
		if x, y := literal(e.X), literal(e.Y); x+y != "" {
			return cmp.Or(x, "%s") + cmp.Or(y, "%s")
		}
	}
	return ""
}
