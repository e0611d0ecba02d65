// Promises removes one protection of Keyferry after the other, and checks that a test notices.
//
//	promises [-run REGEXP] ROOT
//
// Each row of the threat model in docs/security.md has a patch, which removes what the row
// promises, or a line in exceptions.txt with the reason why there is none. A patch is applied to a
// copy of the repository. The test that it names, which is a test of the row, must then fail.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
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
		fmt.Fprintf(out, "no patch: %s: %s\n", e.promise, e.reason)
	}
	copied, err := os.MkdirTemp("", "keyferry-promises-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(copied)
	if err := copyRepository(ctx, root, copied); err != nil {
		return err
	}
	kept := 0
	for _, p := range found.patches {
		if !chosen.MatchString(p.name) || ctx.Err() != nil {
			continue
		}
		begin := time.Now()
		if problem := p.try(ctx, copied); problem != nil {
			fmt.Fprintf(out, "WRONG %s: %v\n", p.name, problem)
			err = errors.Join(err, fmt.Errorf("patch %s", p.name))
			continue
		}
		kept++
		fmt.Fprintf(out, "ok    %s: %s fails (%s)\n", p.name, p.test, time.Since(begin).Round(time.Second))
	}
	if err := errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d patches make their tests fail; %d of %d rows have no patch\n", kept, len(found.exceptions), len(found.rows))
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

// try returns nil if the patch makes its test fail, and undoes the patch.
func (p patch) try(ctx context.Context, root string) (err error) {
	if err := apply(ctx, root, p.file); err != nil {
		return fmt.Errorf("the code has changed: write the patch again: %w", err)
	}
	defer func() { err = errors.Join(err, apply(context.WithoutCancel(ctx), root, p.file, "--reverse")) }()
	var text bytes.Buffer
	test := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", "^"+p.test+"$", ".")
	test.Dir, test.Stdout, test.Stderr = filepath.Join(root, p.directory), &text, &text
	failed := test.Run()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case failed == nil:
		return fmt.Errorf("%s passes without the protection: it does not show the promise", p.test)
	case !strings.Contains(text.String(), "--- FAIL: "+p.test+" "):
		return fmt.Errorf("%s did not run: %s", p.test, text.String())
	}
	return nil
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
