// Versions runs the end-to-end tests on clusters of several versions of Kubernetes, one version
// after the other, and records what they saw in docs/compatibility.json, from which `make generate`
// writes the table of docs/compatibility.md:
//
//	versions [VERSION|MANAGEMENT/TARGET...]
//
// Without an argument it runs them on all versions of docs/compatibility.json. A run replaces the
// record of the last run on the same versions; an interrupted run leaves that record, so that the
// rest can be run later.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/keyferry/keyferry/e2e/cluster"
	"github.com/keyferry/keyferry/e2e/release"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctrllog.SetLogger(logr.Discard()) // controller-runtime prints a stack trace if it has no logger
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "versions:", err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

var versionPattern = regexp.MustCompile(`^v1\.\d+\.\d+$`)

func run(ctx context.Context, args []string) error {
	file := filepath.Join(release.Root(), "docs", "compatibility.json")
	record, err := readRecord(file)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = record.Versions
	}
	var pairs [][2]string
	for _, arg := range args {
		management, target, skewed := strings.Cut(arg, "/")
		if !skewed {
			target = management
		}
		for _, v := range []string{management, target} {
			if !versionPattern.MatchString(v) {
				return fmt.Errorf("%q is not a version like v1.36.3, nor two of them like v1.30.14/v1.36.3", arg)
			}
		}
		pairs = append(pairs, [2]string{management, target})
	}
	var errs []error
	for _, pair := range pairs {
		fmt.Fprintf(os.Stderr, "=== management %s, target %s\n", pair[0], pair[1])
		tests, err := runSuite(ctx, pair[0], pair[1])
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("management %s, target %s: %w", pair[0], pair[1], err))
		}
		if len(tests) == 0 {
			continue // no test ran: there is nothing to record
		}
		commit, err := exec.CommandContext(ctx, "git", "-C", release.Root(), "describe", "--always", "--dirty").Output()
		if err != nil {
			return fmt.Errorf("asking git for the commit: %w", err)
		}
		record.put(runRecord{
			Management: pair[0], Target: pair[1], Date: time.Now().UTC().Format(time.DateOnly), Commit: strings.TrimSpace(string(commit)), Tests: tests,
		})
		if err := record.write(file); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// runSuite runs the suite on new clusters, shows what it prints, and returns the results.
func runSuite(ctx context.Context, management, target string) (results map[string]testRecord, err error) {
	if err := cluster.Down(os.Stderr); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-parallel", "6", "-timeout", "40m", ".")
	cmd.Dir = filepath.Join(release.Root(), "e2e")
	cmd.Env = append(cmd.Environ(), "KUBERNETES_VERSION="+management, cluster.TargetVersionEnv+"="+target)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // the suite removes its clusters
	cmd.WaitDelay = 2 * time.Minute
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	results, err = readResults(out, os.Stdout)
	return results, errors.Join(err, cmd.Wait())
}

// readResults reads the events of `go test -json`, writes the output of the tests to log, and
// returns the results of the tests that ended, without those of subtests.
func readResults(events io.Reader, log io.Writer) (map[string]testRecord, error) {
	results, notes := map[string]testRecord{}, map[string]string{}
	for decoder := json.NewDecoder(events); ; {
		var event struct{ Action, Test, Output string }
		err := decoder.Decode(&event)
		if errors.Is(err, io.EOF) {
			return results, nil
		}
		if err != nil {
			return results, fmt.Errorf("reading the output of go test: %w", err)
		}
		test, _, isSubtest := strings.Cut(event.Test, "/")
		switch event.Action {
		case "output":
			fmt.Fprint(log, event.Output)
			if _, note, found := strings.Cut(strings.TrimSpace(event.Output), notePrefix); found {
				notes[test] = note
			}
		case "pass", "fail", "skip":
			if test != "" && !isSubtest {
				results[test] = testRecord{Result: event.Action, Note: notes[test]}
			}
		}
	}
}
