package kubeconfig

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// decode reads a kubeconfig as client-go does. Its errors name the field, and repeat no value.
func decode(data []byte) (*api.Config, error) {
	document, err := parseYAML(data)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.Load(data)
	if err != nil {
		return nil, decodeError(document, err)
	}
	return config, nil
}

// parseYAML refuses aliases: clientcmd expands each of them, so a small Secret would take all
// memory. It refuses other encodings than UTF-8, which the two YAML parsers here could read
// differently.
func parseYAML(data []byte) (*yaml.Node, error) {
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return nil, errors.New("is not UTF-8 text: save it as UTF-8")
	}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return nil, errors.New("is not a kubeconfig: it cannot be read as YAML" + atLine(err))
	}
	if hasAlias(&document) {
		return nil, errors.New("uses YAML aliases (such as *name): replace the aliases with their values")
	}
	return &document, nil
}

func hasAlias(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || slices.ContainsFunc(n.Content, hasAlias)
}

var line = regexp.MustCompile(`\bline \d+`)

// atLine returns where the parser stumbled. The rest of its message may quote the content.
func atLine(err error) string {
	if at := line.FindString(err.Error()); at != "" {
		return " (" + at + ")"
	}
	return ""
}

// decodeError says why client-go cannot read a document that is YAML.
func decodeError(document *yaml.Node, err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
		return typeError(wrong)
	}
	if _, ok := errors.AsType[base64.CorruptInputError](err); ok {
		if err := base64Error(document); err != nil {
			return err
		}
	}
	switch {
	case len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode:
		return errors.New("is not a kubeconfig: it has no fields, such as clusters, users and contexts")
	case runtime.IsNotRegisteredError(err):
		return errors.New("is not a kubeconfig: set apiVersion: v1 and kind: Config")
	}
	return errors.New("is YAML, but client-go cannot read it as a kubeconfig: write it with kubectl config view --raw --flatten")
}

// typeError names the field, and the type that it must have. The message of the decoder names types
// of Go.
func typeError(wrong *json.UnmarshalTypeError) error {
	found, _, _ := strings.Cut(wrong.Value, " ") // a number may follow
	needed := wrong.Type.String()
	switch wrong.Type.Kind() { //nolint:exhaustive // the types of a kubeconfig
	case reflect.Bool:
		needed = "true or false, without quotes"
	case reflect.String:
		needed = "text: put it into quotes"
	case reflect.Struct, reflect.Map:
		needed = "a mapping"
	case reflect.Slice:
		needed = "a list"
		if wrong.Type.Elem().Kind() == reflect.Uint8 {
			needed = "text in base64"
		}
	}
	return fmt.Errorf("%s has the type %s, but it must be %s", wrong.Field, found, needed)
}

// base64Error names the first field that cannot be decoded, and the byte, as kubectl does; nil if
// there is none.
func base64Error(document *yaml.Node) error {
	for _, list := range []struct{ name, item string }{{"clusters", "cluster"}, {"users", "user"}} {
		for _, entry := range field(document.Content[0], list.name).Content {
			item := field(entry, list.item)
			for _, name := range []string{"certificate-authority-data", "client-certificate-data", "client-key-data"} {
				if err := checkBase64(field(item, name).Value); err != nil {
					return fmt.Errorf("%s %q: %s %w", list.item, field(entry, "name").Value, name, err)
				}
			}
		}
	}
	return nil
}

// field returns the value of a mapping's field; an empty node if it has none.
func field(mapping *yaml.Node, name string) *yaml.Node {
	if mapping.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(mapping.Content); i += 2 {
			if mapping.Content[i].Value == name {
				return mapping.Content[i+1]
			}
		}
	}
	return &yaml.Node{}
}

// checkBase64 returns an error that follows the name of the field.
func checkBase64(value string) error {
	_, err := base64.StdEncoding.DecodeString(value)
	switch {
	case err == nil:
		return nil
	case strings.HasPrefix(strings.TrimSpace(value), "-----BEGIN "):
		return errors.New("is PEM, but must be PEM in base64: encode it (base64 -w0)")
	}
	return fmt.Errorf("must be base64: %w", err)
}
