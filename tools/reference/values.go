package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// The lines of values.yaml that mean something here. An example is a line that only waits for its #
// to be removed.
var (
	section = regexp.MustCompile(`^# -- (.*)$`)
	comment = regexp.MustCompile(`^ *# ?(.*)$`)
	example = regexp.MustCompile(`^ *#(-| {2})`)
	key     = regexp.MustCompile(`^( *)([A-Za-z./]+):(.*)$`)
)

// values is the page on the chart's values: a section for each comment that begins with "# --", a
// row for each value.
func values(file string) (string, error) {
	var defaults map[string]any
	if err := yaml.Unmarshal([]byte(file), &defaults); err != nil {
		return "", fmt.Errorf("reading values: %w", err)
	}
	var b strings.Builder
	b.WriteString("# Values of the chart\n\n<!-- Written by `make generate` from charts/keyferry/values.yaml: change it there. -->\n\n" +
		"Each value has a default that works. The chart rejects unknown names. [values.yaml](../charts/keyferry/values.yaml)\n" +
		"has examples of values that are empty by default.\n")
	p := page{out: &b, defaults: defaults}
	for line := range strings.Lines(file) {
		if err := p.line(strings.TrimRight(line, "\n")); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// page is what is known while values.yaml is read line by line.
type page struct {
	out      *strings.Builder
	defaults map[string]any
	// path leads to the value that was read last.
	path []string
	// comment stands above the value that comes next.
	comment   []string
	inSection bool
	inTable   bool
}

func (p *page) line(line string) error {
	if m := section.FindStringSubmatch(line); m != nil {
		p.comment, p.inSection, p.inTable = []string{m[1]}, true, false
		return nil
	}
	if m := key.FindStringSubmatch(line); m != nil {
		return p.value(len(m[1])/2, m[2])
	}
	switch {
	case line == "":
		if p.inSection && !p.inTable && len(p.comment) > 0 {
			p.begin() // a section with no values of its own: the next one goes on
		}
		p.comment = nil
	case example.MatchString(line):
	default:
		if m := comment.FindStringSubmatch(line); m != nil {
			p.comment = append(p.comment, m[1])
		}
	}
	return nil
}

// begin writes the text of a section.
func (p *page) begin() {
	fmt.Fprintf(p.out, "\n%s\n", strings.Join(p.comment, "\n"))
	p.comment = nil
}

// value writes the row of a value. The names above it are a table's, and have none.
func (p *page) value(depth int, name string) error {
	if depth > len(p.path) {
		return nil // of a default that is an object
	}
	p.path = append(p.path[:depth], name)
	value, err := lookUp(p.defaults, p.path)
	if err != nil {
		return err
	}
	if p.inSection && !p.inTable {
		p.begin()
		fmt.Fprintf(p.out, "\n%s%s", row("value", "default", "meaning"), row("---", "---", "---"))
		p.inTable = true
	}
	meaning := strings.Join(p.comment, " ")
	p.comment = nil
	if object, ok := value.(map[string]any); ok && len(object) > 0 {
		if meaning != "" {
			p.out.WriteString(row(code(strings.Join(p.path, ".")), "", meaning))
		}
		return nil
	}
	shown, err := json.Marshal(value)
	if err != nil {
		return err
	}
	p.out.WriteString(row(code(strings.Join(p.path, ".")), code(string(shown)), meaning))
	return nil
}

func lookUp(defaults map[string]any, path []string) (any, error) {
	var value any = defaults
	for _, name := range path {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s is no value", strings.Join(path, "."))
		}
		if value, ok = object[name]; !ok {
			return nil, fmt.Errorf("%s is no value", strings.Join(path, "."))
		}
	}
	return value, nil
}
