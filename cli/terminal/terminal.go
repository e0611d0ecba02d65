// Package terminal writes text for people: tables, with colours where a terminal shows them.
package terminal

import (
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// Palette colours text. The zero value leaves it as it is.
type Palette struct{ colours bool }

// PaletteFor has colours if w is a terminal, unless the environment says NO_COLOR
// (https://no-color.org) or TERM=dumb.
func PaletteFor(w io.Writer) Palette {
	return Palette{colours: os.Getenv("NO_COLOR") == "" && Is(w)}
}

// Is reports whether w is a terminal that understands control sequences.
func Is(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}

// Plain is text that somebody else has written, on one line and without what a terminal would do
// instead of showing it.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// Good is for what is as it should be.
func (p Palette) Good(text string) string { return p.in("32", text) }

// Bad is for what is not.
func (p Palette) Bad(text string) string { return p.in("31", text) }

// Doubtful is for what is not known.
func (p Palette) Doubtful(text string) string { return p.in("33", text) }

// Head is for what the rest is about.
func (p Palette) Head(text string) string { return p.in("1", text) }

// in is text between the codes of ECMA-48, Select Graphic Rendition.
func (p Palette) in(code, text string) string {
	if !p.colours || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Table has the cells of each row, which are written Plain; the first row is the head. Paint, if it
// is set, colours a cell, and leaves its text as it is.
type Table struct {
	Rows  [][]string
	Paint func(row, column int, text string) string
}

// gap is between two columns.
const gap = "   "

// AppendTo appends the table, its columns as wide as they have to be.
func (t Table) AppendTo(text *strings.Builder) {
	var widths []int
	for _, row := range t.Rows {
		for column, cell := range row {
			if column == len(widths) {
				widths = append(widths, 0)
			}
			widths[column] = max(widths[column], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range t.Rows {
		for column, cell := range row {
			cell = Plain(cell)
			painted := cell
			if t.Paint != nil {
				painted = t.Paint(n, column, cell)
			}
			text.WriteString(painted)
			if column < len(row)-1 { // nothing behind the last
				text.WriteString(strings.Repeat(" ", widths[column]-utf8.RuneCountInString(cell)) + gap)
			}
		}
		text.WriteByte('\n')
	}
}
