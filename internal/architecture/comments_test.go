package architecture

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// commentWidth is the number of columns of a comment. A tab counts as one.
const commentWidth = 100

// TestCommentsWrap: comments wrap at 100 columns, except directives, tables and addresses.
func TestCommentsWrap(t *testing.T) {
	files := token.NewFileSet()
	err := filepath.WalkDir(filepath.Join("..", ".."), func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".") && len(entry.Name()) > 2):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasPrefix(entry.Name(), "zz_generated."):
			return nil
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(files, file, content, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, group := range parsed.Comments {
			for _, comment := range group.List {
				at := files.Position(comment.Pos())
				before := content[at.Offset-at.Column+1 : at.Offset] // code, if the comment is beside it
				text, isProse := strings.CutPrefix(comment.Text, "// ")
				isTable := strings.Contains(text, "  ") || strings.HasPrefix(text, "\t")
				if len(bytes.TrimSpace(before)) > 0 || !isProse || isTable || strings.HasPrefix(text, "+") || strings.Contains(text, "://") {
					continue
				}
				if width := at.Column - 1 + utf8.RuneCountInString(comment.Text); width > commentWidth {
					t.Errorf("%s: a comment of %d columns: wrap it at %d", at, width, commentWidth)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
