// Promises removes one protection of Keyferry after the other, and checks that a test notices.
//
//	promises [-run REGEXP] ROOT
//
// Each row of the threat model in docs/security.md has a patch, which removes what the row
// promises, or a line in exceptions.txt with the reason why there is none. A patch is applied to a
// copy of the repository. The tests that it names, which are tests of the row, must then fail and
// print the texts that the patch names. Without the patch, they must pass and not print the texts.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "promises:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("promises", flag.ContinueOnError)
	only := flags.String("run", "", "regular expression of the names of patches to apply")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("usage: promises [-run REGEXP] ROOT")
	}
	chosen, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	root := flags.Arg(0)
	found, err := read(root)
	if err != nil {
		return err
	}
	if err := found.check(); err != nil {
		return err
	}
	for _, e := range found.exceptions {
		fmt.Fprintf(out, "no patch: %s: %s\n", e.of, e.reason)
	}
	copied, err := os.MkdirTemp("", "keyferry-promises-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(copied)
	if err := copyRepository(ctx, root, copied); err != nil {
		return err
	}
	patches := slices.DeleteFunc(found.patches, func(p patch) bool { return !chosen.MatchString(p.name) })
	if err := baseline(ctx, copied, patches); err != nil {
		return fmt.Errorf("without a patch: %w", err)
	}
	var wrong []error
	for _, p := range patches {
		begin := time.Now()
		if problem := p.try(ctx, copied); problem != nil {
			fmt.Fprintf(out, "WRONG %s: %v\n", p.name, problem)
			wrong = append(wrong, fmt.Errorf("patch %s", p.name))
		} else {
			fmt.Fprintf(out, "ok    %s (%s)\n", p.name, time.Since(begin).Round(time.Second))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	fmt.Fprintf(out, "%d patches make their tests fail\n", len(patches))
	return nil
}

// copyRepository copies all files that Git knows or would add.
func copyRepository(ctx context.Context, root, to string) error {
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", `git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "$1"`, "sh", to)
	cmd.Dir = root
	return output(cmd)
}

// baseline returns an error for each test of the patches that does not pass without a patch. It
// runs the tests of a directory together.
func baseline(ctx context.Context, root string, patches []patch) error {
	tests := map[string][]failure{}
	for _, p := range patches {
		for _, f := range p.failures {
			tests[f.directory] = append(tests[f.directory], f)
		}
	}
	var errs []error
	for _, directory := range slices.Sorted(maps.Keys(tests)) {
		var names []string
		for _, f := range tests[directory] {
			names = append(names, f.test)
		}
		output := goTest(ctx, filepath.Join(root, directory), names...)
		for _, f := range tests[directory] {
			errs = append(errs, f.checkBaseline(output))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// try returns nil if the patch makes its tests fail as it says, and undoes the patch.
func (p patch) try(ctx context.Context, root string) (err error) {
	if err := apply(ctx, root, p.file); err != nil {
		return fmt.Errorf("the code has changed: write the patch again: %w", err)
	}
	defer func() { err = errors.Join(err, apply(context.WithoutCancel(ctx), root, p.file, "--reverse")) }()
	for _, f := range p.failures {
		err = errors.Join(err, f.check(goTest(ctx, filepath.Join(root, f.directory), f.test)))
	}
	return errors.Join(err, ctx.Err())
}

// goTest returns what the tests print. Their results are part of it.
func goTest(ctx context.Context, directory string, tests ...string) string {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", "^("+strings.Join(tests, "|")+")$", ".")
	cmd.Dir = directory
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s%v\n", output, err)
	}
	return string(output)
}

func apply(ctx context.Context, root, file string, flags ...string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	arguments := append(append([]string{"apply", "--unsafe-paths", "--whitespace=nowarn"}, flags...), file)
	cmd := exec.CommandContext(ctx, "git", arguments...)
	cmd.Dir = root
	return output(cmd)
}

// output runs a command; its error contains what the command printed.
func output(cmd *exec.Cmd) error {
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, bytes.TrimSpace(text))
	}
	return nil
}
