// Package architecture holds the rules on who may depend on whom, as docs/development.md explains
// them.
package architecture

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keyferry/keyferry"

type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// load lists all packages of the module and all that they depend on.
func load(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	all := map[string]pkg{}
	for dec := json.NewDecoder(bufio.NewReader(bytes.NewReader(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// within reports whether an import path is that of a package of the module, or below it.
func within(importPath, name string) bool {
	name = path.Join(module, name)
	return importPath == name || strings.HasPrefix(importPath, name+"/")
}

func TestDependencies(t *testing.T) {
	all := load(t)
	standardLibraryOnly := func(dep string) bool { return !all[dep].Standard && !within(dep, "") }
	rules := []struct {
		name    string
		of      func(importPath string) bool
		refused func(dep string) bool
	}{
		{"injector knows only types", func(p string) bool { return within(p, "injector") }, func(dep string) bool {
			return within(dep, "") && !within(dep, "injector") || strings.HasPrefix(dep, "k8s.io/client-go") || strings.HasPrefix(dep, "sigs.k8s.io/controller-runtime")
		}},
		{"webhook has nothing to do with credentials", func(p string) bool { return within(p, "webhook") }, func(dep string) bool {
			return slices.ContainsFunc([]string{"providers", "issuer", "broker", "refresher"}, func(n string) bool { return within(dep, n) })
		}},
		{"refresher is standard library only", func(p string) bool {
			return within(p, "refresher") || within(p, "cmd/refresher") || within(p, "broker/wire")
		}, standardLibraryOnly},
		{"the contract of providers is standard library only", func(p string) bool { return p == path.Join(module, "providers") }, standardLibraryOnly},
		{"plugins are run with the standard library only", func(p string) bool { return within(p, "internal/credentialplugin") }, standardLibraryOnly},
		{"the dashboard issues nothing", func(p string) bool { return within(p, "cli/dashboard") }, func(dep string) bool {
			return dep == path.Join(module, "broker") || dep == path.Join(module, "issuer") ||
				slices.ContainsFunc([]string{"controller", "refresher", "cli/credential", "cli/onboard"}, func(n string) bool { return within(dep, n) })
		}},
		{"api stands alone", func(p string) bool { return within(p, "api") }, func(dep string) bool { return within(dep, "") && !within(dep, "api") }},
		{"nothing depends on cmd", func(string) bool { return true }, func(dep string) bool { return within(dep, "cmd") }},
	}
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			matched := false
			for _, p := range all {
				if !within(p.ImportPath, "") || !rule.of(p.ImportPath) {
					continue
				}
				matched = true
				for _, dep := range p.Deps {
					if rule.refused(dep) {
						t.Errorf("%s depends on %s", p.ImportPath, dep)
					}
				}
			}
			if !matched {
				t.Error("the rule holds for no package: has one been renamed?")
			}
		})
	}
}

// TestProvidersAreIndependent: a provider imports no other provider. The packages that several need
// are not among them.
func TestProvidersAreIndependent(t *testing.T) {
	all := load(t)
	root := path.Join(module, "providers")
	checked := 0
	for _, p := range all {
		own, isProvider := strings.CutPrefix(p.ImportPath, root+"/")
		if !isProvider || strings.HasSuffix(own, "test") {
			continue
		}
		checked++
		own, _, _ = strings.Cut(own, "/")
		for _, dep := range p.Deps {
			if within(dep, "providers") && dep != root && !within(dep, path.Join("providers", own)) {
				t.Errorf("%s depends on %s", p.ImportPath, dep)
			}
		}
	}
	if checked == 0 {
		t.Errorf("no packages in %s: have they been moved?", root)
	}
}

// TestInjectorImports: beyond its own packages, the injector names only types of Kubernetes.
func TestInjectorImports(t *testing.T) {
	all := load(t)
	p, ok := all[path.Join(module, "injector")]
	if !ok {
		t.Fatal("no package injector")
	}
	for _, imp := range p.Imports {
		if !all[imp].Standard && !within(imp, "injector") && !strings.HasPrefix(imp, "k8s.io/api/") && !strings.HasPrefix(imp, "k8s.io/apimachinery/") {
			t.Errorf("injector imports %s", imp)
		}
	}
}

func TestNoInitNoUtil(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".") && len(entry.Name()) > 2):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(file, ".go"):
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if name := strings.TrimSuffix(parsed.Name.Name, "_test"); slices.Contains([]string{"util", "utils", "common", "helpers", "misc"}, name) {
			t.Errorf("%s: package %s says nothing about what it gives", file, name)
		}
		for _, decl := range parsed.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init() hides what main should say", file)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
