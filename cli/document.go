package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is one document of a stream of YAML or JSON, as it is written.
type document struct {
	text []byte
	line int // lines of the stream before it
}

// split splits a stream into its documents. Together they are the stream again: a separator is the
// first line of the document after it. What holds nothing but space is none if it is at an end of
// the stream.
func split(stream []byte) []document {
	if docs, ok := splitJSON(stream); ok {
		return docs
	}
	var docs []document
	start, line, startLine := 0, 0, 0
	end := func(at int) {
		if text := stream[start:at]; start > 0 && at > start || len(bytes.TrimSpace(text)) > 0 {
			docs = append(docs, document{text: text, line: startLine})
			start, startLine = at, line
		}
	}
	for at := 0; at < len(stream); line++ {
		current := firstLine(stream[at:])
		if isSeparator(current) {
			end(at)
		}
		at += len(current)
	}
	end(len(stream))
	return docs
}

// splitJSON splits objects of JSON that follow each other without separators; ok reports whether
// the stream is that.
func splitJSON(stream []byte) (docs []document, ok bool) {
	decoder := json.NewDecoder(bytes.NewReader(stream))
	start := 0
	for {
		var object map[string]json.RawMessage
		switch err := decoder.Decode(&object); {
		case errors.Is(err, io.EOF) && len(docs) > 0:
			last := &docs[len(docs)-1]
			last.text = stream[start-len(last.text):] // with the space at the end
			return docs, true
		case err != nil:
			return nil, false
		}
		end := int(decoder.InputOffset())
		docs = append(docs, document{text: stream[start:end], line: bytes.Count(stream[:start], []byte{'\n'})})
		start = end
	}
}

func firstLine(text []byte) []byte {
	if i := bytes.IndexByte(text, '\n'); i >= 0 {
		return text[:i+1]
	}
	return text
}

func isSeparator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0])))
}

// parse returns the object in the document, without aliases; nil where there is none.
func (d document) parse() (*yaml.Node, error) {
	// With the lines before it, errors tell the line of the file.
	padded := append(bytes.Repeat([]byte{'\n'}, d.line), d.text...)
	decoder := yaml.NewDecoder(bytes.NewReader(padded))
	var root yaml.Node
	switch err := decoder.Decode(&root); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, err
	}
	switch err := decoder.Decode(new(yaml.Node)); {
	case err == nil:
		return nil, errors.New("the file contains a second document without a line --- before the document")
	case !errors.Is(err, io.EOF):
		return nil, err
	case root.Content[0].Kind != yaml.MappingNode:
		return nil, nil
	}
	// Decoding refuses a key that is there twice, and aliases without an end.
	if err := root.Decode(new(any)); err != nil {
		return nil, err
	}
	expand(root.Content[0])
	return root.Content[0], nil
}

// print returns the document with another content, in the same notation and as near to the same
// layout as can be.
func (d document) print(object *yaml.Node) ([]byte, error) {
	if json.Valid(d.text) {
		return d.printJSON(object)
	}
	var out bytes.Buffer
	if line := firstLine(d.text); isSeparator(line) {
		out.WriteString("---\n")
	}
	encoder := yaml.NewEncoder(&out)
	indent, compact := layout(object)
	encoder.SetIndent(indent)
	if compact {
		encoder.CompactSeqIndent()
	}
	if err := errors.Join(encoder.Encode(object), encoder.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (d document) printJSON(object *yaml.Node) ([]byte, error) {
	raw, err := toJSON(object)
	if err != nil {
		return nil, err
	}
	body := bytes.TrimSpace(d.text)
	if _, second, ok := bytes.Cut(body, []byte{'\n'}); ok {
		indent := second[:len(second)-len(bytes.TrimLeft(second, " \t"))]
		var out bytes.Buffer
		if err := json.Indent(&out, raw, "", string(indent)); err != nil {
			return nil, err
		}
		raw = out.Bytes()
	}
	return append(raw, '\n'), nil
}

// layout returns by how much a document indents, and whether a list stands as far left as its name.
// What there is no example of is as kubectl prints it.
func layout(node *yaml.Node) (indent int, compact bool) {
	indent, compact = 2, true
	var walk func(n *yaml.Node) bool
	foundIndent := false
	walk = func(n *yaml.Node) bool {
		for i := 0; n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle == 0 && i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			inBlock := len(value.Content) > 0 && value.Style&yaml.FlowStyle == 0 && key.Line > 0 && value.Line > key.Line
			switch {
			case inBlock && value.Kind == yaml.MappingNode && !foundIndent:
				indent, foundIndent = max(2, value.Column-key.Column), true
			case inBlock && value.Kind == yaml.SequenceNode:
				compact = value.Column == key.Column
				return true
			}
			if walk(value) {
				return true
			}
		}
		return false
	}
	walk(node)
	return indent, compact
}
