package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyferry/keyferry/injector"
)

// member returns the value of a key of an object; nil where there is none.
func member(object *yaml.Node, key string) *yaml.Node {
	if i := memberIndex(object, key); i >= 0 {
		return object.Content[i]
	}
	return nil
}

func memberIndex(object *yaml.Node, key string) int {
	if object == nil || object.Kind != yaml.MappingNode {
		return -1
	}
	for i := 0; i+1 < len(object.Content); i += 2 {
		if object.Content[i].Value == key {
			return i + 1
		}
	}
	return -1
}

// elements returns the elements of a list; nil where it is none.
func elements(list *yaml.Node) []*yaml.Node {
	if list == nil || list.Kind != yaml.SequenceNode {
		return nil
	}
	return list.Content
}

// text returns a scalar as it is written; empty where it is none.
func text(scalar *yaml.Node) string {
	if scalar == nil || scalar.Kind != yaml.ScalarNode {
		return ""
	}
	return scalar.Value
}

// expand replaces aliases by what they stand for, and merge keys by what they merge: a change would
// else show in every place that shares it. The node must have been decoded before, so that it is
// known to have an end.
func expand(node *yaml.Node) {
	if node.Kind == yaml.AliasNode {
		*node = *clone(node.Alias)
	}
	node.Anchor = ""
	for _, child := range node.Content {
		expand(child)
	}
	if node.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(node.Content); {
		if node.Content[i].Tag != "!!merge" {
			i += 2
			continue
		}
		merged := []*yaml.Node{node.Content[i+1]}
		if merged[0].Kind == yaml.SequenceNode {
			merged = merged[0].Content
		}
		node.Content = slices.Delete(node.Content, i, i+2)
		for _, from := range merged {
			for j := 0; j+1 < len(from.Content); j += 2 {
				if memberIndex(node, from.Content[j].Value) < 0 {
					node.Content = append(node.Content, from.Content[j], from.Content[j+1])
				}
			}
		}
	}
}

func clone(node *yaml.Node) *yaml.Node {
	if node == nil {
		return nil
	}
	c := *node
	c.Content = make([]*yaml.Node, len(node.Content))
	for i, child := range node.Content {
		c.Content[i] = clone(child)
	}
	return &c
}

// toJSON returns a node without aliases as JSON, in the order and with the numbers that it is
// written with.
func toJSON(node *yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	if err := writeJSON(&out, node); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func writeJSON(out *bytes.Buffer, node *yaml.Node) error {
	switch node.Kind {
	case yaml.MappingNode:
		out.WriteByte('{')
		for i := 0; i+1 < len(node.Content); i += 2 {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeString(out, node.Content[i].Value); err != nil {
				return err
			}
			out.WriteByte(':')
			if err := writeJSON(out, node.Content[i+1]); err != nil {
				return err
			}
		}
		out.WriteByte('}')
		return nil
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, element := range node.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeJSON(out, element); err != nil {
				return err
			}
		}
		out.WriteByte(']')
		return nil
	case yaml.ScalarNode:
		return writeScalar(out, node)
	default:
		return fmt.Errorf("line %d: cannot be expressed in JSON", node.Line)
	}
}

func writeScalar(out *bytes.Buffer, node *yaml.Node) error {
	switch tag := node.ShortTag(); {
	case tag == "!!null":
		out.WriteString("null")
		return nil
	case tag != "!!int" && tag != "!!float" && tag != "!!bool":
		return writeString(out, node.Value)
	case json.Valid([]byte(node.Value)):
		out.WriteString(node.Value)
		return nil
	}
	var value any // such as 0o644 or True
	if err := node.Decode(&value); err != nil {
		return err
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	out.Write(encoded)
	return nil
}

func writeString(out *bytes.Buffer, s string) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		return err
	}
	out.Truncate(out.Len() - 1) // the newline
	return nil
}

// apply applies operations to an object.
func apply(object *yaml.Node, ops []injector.Operation) error {
	for _, op := range ops {
		var value *yaml.Node
		var err error
		switch op.Op {
		case "move":
			value, err = remove(object, op.From)
		case "remove":
			_, err = remove(object, op.Path)
		default:
			value, err = toNode(op.Value)
		}
		if err == nil && value != nil {
			err = put(object, op, value)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", op.Op, op.Path, err)
		}
	}
	return nil
}

// toNode returns a value as it would be decoded from YAML written by hand.
func toNode(value any) (*yaml.Node, error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(encoded, &doc); err != nil {
		return nil, err
	}
	plain(doc.Content[0])
	return doc.Content[0], nil
}

// plain removes the brackets and quotes of JSON, and the places; quotes that are needed are written
// again.
func plain(node *yaml.Node) {
	node.Style, node.Line, node.Column = 0, 0, 0
	for _, child := range node.Content {
		plain(child)
	}
}

// find returns the parent of what a JSON pointer names, and the last token of it.
func find(object *yaml.Node, pointer string) (parent *yaml.Node, last string, err error) {
	tokens := strings.Split(pointer, "/")[1:]
	for i, token := range tokens {
		tokens[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
	}
	parent = object
	for _, token := range tokens[:len(tokens)-1] {
		if parent.Kind == yaml.SequenceNode {
			i, err := strconv.Atoi(token)
			if err != nil || i >= len(parent.Content) {
				return nil, "", fmt.Errorf("no element %s", token)
			}
			parent = parent.Content[i]
		} else if parent = member(parent, token); parent == nil {
			return nil, "", fmt.Errorf("no member %s", token)
		}
	}
	return parent, tokens[len(tokens)-1], nil
}

// put adds or replaces a value.
func put(object *yaml.Node, op injector.Operation, value *yaml.Node) error {
	parent, last, err := find(object, op.Path)
	if err != nil {
		return err
	}
	if parent.Kind == yaml.MappingNode {
		if i := memberIndex(parent, last); i >= 0 {
			parent.Content[i] = value
			return nil
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: last}
		parent.Content = append(parent.Content, key, value)
		return nil
	}
	i := len(parent.Content)
	if last != "-" {
		if i, err = strconv.Atoi(last); err != nil {
			return err
		}
	}
	if op.Op == "replace" {
		value.HeadComment, value.LineComment, value.FootComment = parent.Content[i].HeadComment, parent.Content[i].LineComment, parent.Content[i].FootComment
		parent.Content[i] = value
		return nil
	}
	parent.Content = slices.Insert(parent.Content, i, value)
	return nil
}

// remove removes an element of a list and returns it.
func remove(object *yaml.Node, pointer string) (*yaml.Node, error) {
	parent, last, err := find(object, pointer)
	if err != nil {
		return nil, err
	}
	i, err := strconv.Atoi(last)
	if err != nil {
		return nil, err
	}
	removed := parent.Content[i]
	parent.Content = slices.Delete(parent.Content, i, i+1)
	return removed, nil
}
