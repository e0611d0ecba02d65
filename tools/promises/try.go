package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// copyRepository makes n copies of all files that Git knows or would add. remove removes them.
func copyRepository(root string, n int) (copies []string, remove func(), err error) {
	folder, err := os.MkdirTemp("", "keyferry-promises-")
	remove = func() { _ = os.RemoveAll(folder) }
	if err != nil {
		return nil, remove, err
	}
	for i := range n {
		to := filepath.Join(folder, strconv.Itoa(i))
		if err := os.Mkdir(to, 0o755); err != nil {
			return nil, remove, err
		}
		if _, err := output(root, "sh", "-c", `git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "$1"`, "sh", to); err != nil {
			return nil, remove, err
		}
		copies = append(copies, to)
	}
	return copies, remove, nil
}

// inCopies calls do for each item until ctx ends, and returns when all calls have. No two calls use
// a copy at the same time.
func inCopies[T any](ctx context.Context, copies []string, items []T, do func(root string, item T)) {
	queue := make(chan T)
	var wg sync.WaitGroup
	for _, root := range copies {
		wg.Go(func() {
			for item := range queue {
				do(root, item)
			}
		})
	}
	for _, item := range items {
		if ctx.Err() != nil {
			break
		}
		select {
		case queue <- item:
		case <-ctx.Done():
		}
	}
	close(queue)
	wg.Wait()
}

// problems are those of tests without a patch.
type problems map[failure]error

// of returns the problems of the tests of a patch.
func (found problems) of(p patch) (err error) {
	for _, f := range p.failures {
		err = errors.Join(err, found[f])
	}
	return err
}

// baseline runs the tests of the patches without a patch.
func baseline(ctx context.Context, copies []string, patches []patch) problems {
	var all []failure
	for _, p := range patches {
		all = append(all, p.failures...)
	}
	byDirectory := perDirectory(all)
	found := problems{}
	var mu sync.Mutex
	inCopies(ctx, copies, slices.Sorted(maps.Keys(byDirectory)), func(root, directory string) {
		results := goTest(root, directory, byDirectory[directory])
		mu.Lock()
		defer mu.Unlock()
		for _, f := range byDirectory[directory] {
			found[f] = f.checkBaseline(results)
		}
	})
	return found
}

func perDirectory(failures []failure) map[string][]failure {
	all := map[string][]failure{}
	for _, f := range failures {
		all[f.directory] = append(all[f.directory], f)
	}
	return all
}

// try returns nil if the patch makes its tests fail as it says, and undoes the patch.
func (p patch) try(root string) (err error) {
	if err := apply(root, p.file); err != nil {
		return fmt.Errorf("the code has changed: write the patch again: %w", err)
	}
	defer func() { err = errors.Join(err, apply(root, p.file, "--reverse")) }()
	for directory, failures := range perDirectory(p.failures) {
		results := goTest(root, directory, failures)
		for _, f := range failures {
			err = errors.Join(err, f.check(results))
		}
	}
	return err
}

// results are those of the tests of a directory.
type results struct {
	tests map[string]test
	all   string // what the tests and Go print
}

// test is the result of a test: pass, fail or skip. The output contains that of its subtests.
type test struct{ result, output string }

// goTest runs the tests that the failures name.
func goTest(root, directory string, failures []failure) results {
	var names []string
	for _, f := range failures {
		names = append(names, f.test)
	}
	slices.Sort(names) // of a test in several rows
	names = slices.Compact(names)
	// Vetting patched code would take time and show nothing.
	text, err := output(filepath.Join(root, directory),
		"go", "test", "-count=1", "-vet=off", "-json", "-run", "^("+strings.Join(names, "|")+")$", ".")
	found := parseResults(text)
	if err != nil {
		found.all += err.Error() + "\n"
	}
	return found
}

// parseResults reads the output of go test -json.
func parseResults(text string) results {
	found := results{tests: map[string]test{}}
	for line := range strings.Lines(text) {
		var event struct{ Action, Test, Output string }
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			event.Output = line
		}
		found.all += event.Output
		name, _, isSubtest := strings.Cut(event.Test, "/")
		of := found.tests[name]
		of.output += event.Output
		if !isSubtest && slices.Contains([]string{"pass", "fail", "skip"}, event.Action) {
			of.result = event.Action
		}
		found.tests[name] = of
	}
	return found
}

// end returns the last lines of an output.
func end(output string) string { return output[max(0, len(output)-4000):] }

// checkBaseline returns an error unless the test passes without a patch.
func (f failure) checkBaseline(found results) error {
	switch of := found.tests[f.test]; {
	case of.result != "pass":
		return fmt.Errorf("%s does not pass without a patch: %s", f.name(), end(found.all))
	case strings.Contains(of.output, f.text):
		return fmt.Errorf("%s prints %q although it passes: choose another text", f.name(), f.text)
	}
	return nil
}

// check returns an error unless the test fails as the patch says.
func (f failure) check(found results) error {
	switch of := found.tests[f.test]; {
	case of.result == "pass":
		return fmt.Errorf("%s passes without the protection: it does not show the promise", f.name())
	case strings.HasPrefix(found.all, "panic: "), strings.Contains(found.all, "\npanic: "):
		return fmt.Errorf("%s panics or takes too long: %s", f.name(), end(found.all))
	case of.result != "fail":
		return fmt.Errorf("%s did not run: %s", f.name(), end(found.all))
	case !strings.Contains(of.output, f.text):
		return fmt.Errorf("%s fails for another reason: it does not print %q: %s", f.name(), f.text, end(of.output))
	}
	return nil
}

func apply(root, file string, flags ...string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	_, err = output(root, "git", append(append([]string{"apply", "--unsafe-paths", "--whitespace=nowarn"}, flags...), file)...)
	return err
}

// output returns what a command prints. Its error contains what the command printed to standard
// error. An interrupt does not end the command: tests would not stop their API servers.
func output(directory, name string, arguments ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(context.Background(), name, arguments...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = directory, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", cmd, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), err
}
