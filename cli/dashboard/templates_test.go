package dashboard

import (
	"slices"
	"testing"
	tree "text/template/parse"
)

// TestTextsArePlain: a template writes the strings of objects without control characters, and
// without characters that change the direction of the text after them.
func TestTextsArePlain(t *testing.T) {
	r, err := newRenderer("/base/", "management")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(template string, node tree.Node)
	walk = func(template string, node tree.Node) {
		switch n := node.(type) {
		case *tree.ListNode:
			if n != nil {
				for _, child := range n.Nodes {
					walk(template, child)
				}
			}
		case *tree.IfNode:
			walk(template, n.List)
			walk(template, n.ElseList)
		case *tree.RangeNode:
			walk(template, n.List)
			walk(template, n.ElseList)
		case *tree.WithNode:
			walk(template, n.List)
			walk(template, n.ElseList)
		case *tree.ActionNode:
			if len(n.Pipe.Decl) == 0 && !isPlain(n.Pipe.Cmds[len(n.Pipe.Cmds)-1]) {
				t.Errorf("%s: %s: write plain before it, or add it to the texts of this program in the test", template, n)
			}
		}
	}
	actions := 0
	for _, template := range r.templates.Templates() {
		if template.Tree != nil {
			walk(template.Name(), template.Tree.Root)
			actions++
		}
	}
	if actions < 20 {
		t.Errorf("only %d templates were read", actions)
	}
}

// isPlain reports whether a command writes a text that is plain, or one of this program.
func isPlain(command *tree.CommandNode) bool {
	switch first := command.Args[0].(type) {
	case *tree.IdentifierNode:
		if first.Ident == "or" {
			return isPlainArgument(command.Args[1])
		}
		return slices.Contains([]string{"plain", "tone", "glyph", "result", "rfc", "utc", "rowID", "link", "asset", "objectLink", "pageLink", "len"}, first.Ident)
	case *tree.FieldNode, *tree.DotNode:
		return isPlainArgument(first)
	}
	return false
}

func isPlainArgument(node tree.Node) bool {
	if pipe, ok := node.(*tree.PipeNode); ok {
		return isPlain(pipe.Cmds[len(pipe.Cmds)-1])
	}
	return slices.Contains([]string{
		// Numbers.
		".From", ".To", ".Total", ".Ready", ".NotReady", ".Unknown", ".Pods", ".ReadyPods", ".Requests", ".Revoked", ".Users", ".Count",
		// Words of this program, and of the API's enumerations.
		".", ".Kind", ".Title", ".Of", ".Page.Of", ".Path", ".Details.Access", ".ID", ".At", ".Style", ".StyleHash", ".Icon",
		// What html/template wrote, and URLs.
		".HTML", ".Anchor", ".Continue",
		// What the user has typed.
		".Page.Filter.Query",
	}, node.String())
}
