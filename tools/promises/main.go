// Promises removes one protection of Keyferry after the other, and checks that a test notices.
//
//	promises [-run REGEXP] ROOT
//
// Each test that a row of the threat model in docs/security.md names has a patch, which removes
// what the row promises, or a line in exceptions.txt with the reason why there is none. A patch is
// applied to a copy of the repository. The tests that it names must then fail and print the texts
// that the patch names. Without the patch, they must pass and not print the texts.
//
// After an interrupt, the program ends when the patches that it is trying are done. The next run at
// the same commit continues with the other patches.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
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
		fmt.Fprintf(out, "no patch  %s: %s\n", e.of, e.reason)
	}
	patches := slices.DeleteFunc(found.patches, func(p patch) bool { return !chosen.MatchString(p.name) })
	if len(patches) == 0 {
		return fmt.Errorf("-run: no patch has a name that matches %s", *only)
	}
	done := &progress{}
	if *only == "" {
		if done, err = openProgress(root); err != nil {
			return err
		}
	}
	return tryAll(ctx, out, root, patches, done)
}

// tryAll tries the patches that are not done yet, and writes a line about each.
func tryAll(ctx context.Context, out io.Writer, root string, patches []patch, done *progress) error {
	begin := time.Now()
	left := slices.DeleteFunc(slices.Clone(patches), func(p patch) bool { return done.contains(p.name) })
	if n := len(patches) - len(left); n > 0 {
		fmt.Fprintf(out, "%d patches are done: continuing with the others\n", n)
	}
	copies, remove, err := copyRepository(root, runtime.NumCPU())
	defer remove()
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "running the tests without a patch")
	problems := baseline(ctx, copies, left)
	fmt.Fprintf(out, "trying the patches (after %s)\n", since(begin))

	var mu sync.Mutex
	var wrong []string
	tried := 0
	inCopies(ctx, copies, left, func(root string, p patch) {
		begin := time.Now()
		problem := problems.of(p)
		if problem == nil {
			problem = p.try(root)
		}
		mu.Lock()
		defer mu.Unlock()
		tried++
		if problem == nil {
			problem = done.add(p.name)
		}
		if problem == nil {
			fmt.Fprintf(out, "ok        %s (%s)\n", p.name, since(begin))
			return
		}
		fmt.Fprintf(out, "WRONG     %s (%s): %v\n", p.name, since(begin), problem)
		wrong = append(wrong, p.name)
	})
	fmt.Fprintf(out, "%d of %d patches in %s: %d are wrong\n", len(patches)-len(left)+tried, len(patches), since(begin), len(wrong))
	switch {
	case len(wrong) > 0:
		return fmt.Errorf("wrong: %s", strings.Join(wrong, ", "))
	case tried < len(left):
		return errors.New("stopped: the next run at this commit continues")
	}
	return done.remove()
}

func since(begin time.Time) time.Duration { return time.Since(begin).Round(time.Second) }
