// Cel compiles the CEL of manifests as the API server of Kubernetes 1.30 does, the oldest that
// Keyferry supports: the rules of CustomResourceDefinitions, the match conditions of webhook
// configurations, and ValidatingAdmissionPolicies.
//
//	cel FILE|DIR...
//
// The packages of that API server compile them, in the version that go.mod pins. Newer packages
// accept more, even in an environment for 1.30: `has(self.namespace)`, for example, whose field is
// a reserved word.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cel:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, paths []string) error {
	files, err := manifests(paths)
	if err != nil {
		return err
	}
	var compiled int
	var rejected []error
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		objects, err := decode(content)
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
		for _, object := range objects {
			known, err := check(object)
			if known {
				compiled++
			}
			if err != nil {
				rejected = append(rejected, fmt.Errorf("%s: %s %s: %w", file, object.GetKind(), object.GetName(), err))
			}
		}
	}
	if compiled == 0 {
		return fmt.Errorf("no object with CEL in %s", strings.Join(paths, ", "))
	}
	fmt.Fprintf(out, "compiled the CEL of %d objects\n", compiled)
	return errors.Join(rejected...)
}

// manifests returns the YAML files among paths, and in the directories among them.
func manifests(paths []string) (files []string, err error) {
	for _, path := range paths {
		err := filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() && filepath.Ext(file) == ".yaml" {
				files = append(files, file)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// decode reads the objects of a stream of YAML documents.
func decode(stream []byte) (objects []*unstructured.Unstructured, err error) {
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(stream), 4096); ; {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}
