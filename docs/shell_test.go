package docs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"mvdan.cc/sh/v3/syntax"

	"github.com/keyferry/keyferry/internal/testenv"
)

// others are programs of every shell, and of developers.
var others = []string{
	"awk", "base64", "cat", "cd", "curl", "cut", "diff", "export", "go", "grep", "jq", "ln", "mkdir", "openssl", "sha256sum", "sort", "tar",
}

// commands are the simple commands of a script, each as its words; what is only known when it runs
// is "x".
func commands(script string) ([][]string, error) {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(script), "")
	if err != nil {
		return nil, err
	}
	var all [][]string
	syntax.Walk(file, func(node syntax.Node) bool {
		if call, ok := node.(*syntax.CallExpr); ok && len(call.Args) > 0 {
			var words []string
			for _, word := range call.Args {
				words = append(words, literal(word.Parts))
			}
			all = append(all, words)
		}
		return true
	})
	return all, nil
}

func literal(parts []syntax.WordPart) string {
	var b strings.Builder
	for _, part := range parts {
		switch part := part.(type) {
		case *syntax.Lit:
			b.WriteString(part.Value)
		case *syntax.SglQuoted:
			b.WriteString(part.Value)
		case *syntax.DblQuoted:
			b.WriteString(literal(part.Parts))
		default:
			b.WriteString("x")
		}
	}
	return b.String()
}

// programs are those that tests run, by name.
type programs map[string]string

// parse has a command's own program parse it: --help at the end makes it print its help, unless
// something before does not make sense.
func (p programs) parse(ctx context.Context, words []string) error {
	name := filepath.Base(words[0])
	switch {
	case name == "make":
		return makeCommand(root, words[1:])
	case name == "kubectl" && len(words) > 1 && words[1] == "krew":
		return vendorCommand(append([]string{"kubectl-krew"}, words[2:]...), false)
	case everywhere[name] != "":
		return vendorCommand(words, false)
	case p[name] != "":
		return p.askForHelp(ctx, name, words[1:])
	case strings.HasPrefix(words[0], "tools/"), slices.Contains(others, name):
		return nil
	default:
		return errors.New("nothing here knows that program")
	}
}

func (p programs) askForHelp(ctx context.Context, name string, args []string) error {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	out, err := exec.CommandContext(ctx, p[name], append(slices.Clone(args), "--help")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out[:min(len(out), 600)])
	}
	// A group of commands shows its help whatever it is given.
	if group := strings.Contains(string(out), "\nAvailable Commands:"); group && len(args) > 1 && !strings.HasPrefix(args[0], "-") && !strings.HasPrefix(args[1], "-") {
		return fmt.Errorf("%s %s has no command %s", name, args[0], args[1])
	}
	return nil
}

// find finds or builds them, once for all tests.
var find = sync.OnceValues(func() (programs, error) {
	dir := filepath.Join(work, "programs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	found := programs{"kubectl": filepath.Join(testenv.Assets(), "kubectl"), "keyferry": filepath.Join(dir, "keyferry")}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.Symlink(self, found["keyferry"]); err != nil { // see TestMain
		return nil, err
	}
	for _, name := range []string{"helm", "cosign", "oras"} {
		out, err := exec.Command(filepath.Join(root, "tools", "run"), "--build", name).Output()
		if err != nil {
			return nil, fmt.Errorf("building %s: %w", name, err)
		}
		found[name] = filepath.Join(dir, name)
		if err := os.Symlink(strings.TrimSpace(string(out)), found[name]); err != nil {
			return nil, err
		}
	}
	return found, nil
})

func tools(t *testing.T) programs {
	t.Helper()
	found, err := find()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestCommands: whatever is a command, in a block or in the text, is one that its program
// understands.
func TestCommands(t *testing.T) {
	t.Parallel()
	inText := regexp.MustCompile(`^(kubectl|helm|keyferry|make|cosign|oras|aws|az|gcloud) [a-z]`)
	for _, page := range pages(t) {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			blocks, spans := read(t, page)
			scripts := slices.DeleteFunc(blocks, func(b block) bool { return b.lang != "sh" })
			for _, s := range spans {
				if inText.MatchString(s.text) && !strings.Contains(s.text, "…") {
					scripts = append(scripts, s)
				}
			}
			for _, script := range scripts {
				all, err := commands(script.text)
				if err != nil {
					t.Errorf("%s: %v", place(script), err)
				}
				for _, words := range all {
					if err := tools(t).parse(t.Context(), words); err != nil {
						t.Errorf("%s: %s: %v", place(script), strings.Join(words, " "), err)
					}
				}
			}
		})
	}
}

// TestStandIns: who runs a command has to say all that it needs.
func TestStandIns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ command, want string }{
		{"aws iam create-user --user-name me", ""},
		{"aws iam create-user", "--user-name"},
		{"gcloud iam service-accounts create me --format=json", ""},
		{"gcloud iam service-accounts create --format=json", "NAME"},
		{"go test ../injector -run TestInject/name -v", ""},
		{"go test ../injector -run TestBogus", "TestBogus"},
		{"go test ../bogus", "bogus"},
		{"go bogus", "bogus"},
	} {
		err := standIn(io.Discard, strings.Fields(test.command))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", test.command, err, test.want)
		}
	}
}

// TestParse: what is no command is found out.
func TestParse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ command, want string }{
		{"kubectl get pods -n app -o wide", ""},
		{"kubectl bogus", "bogus"},
		{"kubectl create bogus", "bogus"},
		{"kubectl get pods --bogus", "bogus"},
		{"helm upgrade a b --reset-then-reuse-values", ""},
		{"helm upgrade a b --bogus", "bogus"},
		{"keyferry inject -f x", ""},
		{"keyferry inject --bogus", "bogus"},
		{"keyferry bogus", "bogus"},
		{"make test PACKAGES=./broker", ""},
		{"make bogus", "bogus"},
		{"make test BOGUS=1", "BOGUS"},
		{"aws iam create-user", ""},
		{"aws bogus", "aws bogus"},
		{"aws iam create-user --bogus", "bogus"},
		{"az identity create bogus", "bogus"},
		{"gcloud iam service-accounts create keyferry bogus", "bogus"},
		{"bogus", "knows"},
	} {
		err := tools(t).parse(t.Context(), strings.Fields(test.command))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", test.command, err, test.want)
		}
	}
}
