package terminal

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestPaletteFor(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if got := PaletteFor(&bytes.Buffer{}).Good("a"); got != "a" {
		t.Errorf("got %q for what is no file", got)
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got := PaletteFor(file).Good("a"); got != "a" {
		t.Errorf("got %q for a file", got)
	}
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there is no terminal to be had: ", err)
	}
	defer tty.Close()
	if got := PaletteFor(tty).Good("a"); got != "\x1b[32ma\x1b[0m" {
		t.Errorf("got %q for a terminal", got)
	}
	for name, value := range map[string]string{"NO_COLOR": "1", "TERM": "dumb"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			if got := PaletteFor(tty).Good("a"); got != "a" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestTable(t *testing.T) {
	p := Palette{colours: true}
	table := Table{
		Rows: [][]string{{"NAME", "READY"}, {"ä", "False"}, {"longer\x1b", "True"}},
		Paint: func(row, column int, text string) string {
			switch {
			case row == 0:
				return p.Head(text)
			case column == 1 && text == "False":
				return p.Bad(text)
			}
			return text
		},
	}
	var out strings.Builder
	table.AppendTo(&out)
	want := "\x1b[1mNAME\x1b[0m      \x1b[1mREADY\x1b[0m\n" +
		"ä         \x1b[31mFalse\x1b[0m\n" +
		"longer�   True\n"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
}

func TestPlain(t *testing.T) {
	if got := Plain("a\nb\t\x1b]0;title\x07\u202e"); got != "a b �]0;title��" {
		t.Errorf("got %q", got)
	}
}
