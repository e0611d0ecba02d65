// Package generated updates sections of the documentation that are generated from the programs'
// output. It is for tests.
package generated

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/keyferry/keyferry/internal/moduleroot"
	"github.com/keyferry/keyferry/internal/version"
)

// Check compares a section of a file in docs with want, or writes it if update is true. The section
// is between the lines <!-- generated: SECTION --> and <!-- end -->.
func Check(t testing.TB, file, section, want string, update bool) {
	t.Helper()
	path := filepath.Join(moduleroot.Dir(), "docs", file)
	text, err := os.ReadFile(path) //nolint:gosec // of this repository
	if err != nil {
		t.Fatal(err)
	}
	begin := fmt.Sprintf("<!-- generated: %s -->\n", section)
	before, rest, found := strings.Cut(string(text), begin)
	have, after, closed := strings.Cut(rest, "<!-- end -->")
	if !found || !closed {
		t.Fatalf("docs/%s has no section %q", file, section)
	}
	want = "\n" + strings.TrimSpace(want) + "\n\n"
	if have == want {
		return
	}
	if !update {
		t.Errorf("docs/%s: section %q is not current: run this test with -update, and read the difference. It should be:\n%s", file, section, want)
		return
	}
	if err := os.WriteFile(path, []byte(before+begin+want+"<!-- end -->"+after), 0o600); err != nil { //nolint:gosec // as above
		t.Fatal(err)
	}
}

// CheckHelp compares the output of a program's --help with its section of docs/flags.md.
func CheckHelp(t testing.TB, program, help string, update bool) {
	t.Helper()
	Check(t, "flags.md", program, "```text\n"+strings.TrimSpace(help)+"\n```", update)
}

// CheckCommand is CheckHelp for a command. It also checks the output of --version.
func CheckCommand(t testing.TB, newCommand func() *cobra.Command, update bool) {
	t.Helper()
	printed := func(flag string) string {
		var out strings.Builder
		cmd := newCommand()
		cmd.SetOut(&out)
		cmd.SetArgs([]string{flag})
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	CheckHelp(t, newCommand().Name(), printed("--help"), update)
	if got := printed("--version"); got != version.String()+"\n" {
		t.Errorf("--version prints %q", got)
	}
}
