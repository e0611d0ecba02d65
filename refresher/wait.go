package refresher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/keyferry/keyferry/refresher/fileset"
)

// waitInterval is the period of the checks of Wait. It is short, because it delays the start of the
// application.
const waitInterval = 5 * time.Millisecond

// maxTerminationMessage is the limit of the kubelet for a termination message, in bytes.
const maxTerminationMessage = 4096

// Wait waits until credentialsDir has a complete set of files whose credential has not expired. If
// ctx is done before, it returns the reason that Run wrote to terminationLog.
func Wait(ctx context.Context, credentialsDir, terminationLog string) error {
	if await(ctx, func() bool { return ready(credentialsDir) }) {
		return nil
	}
	return reason(terminationLog)
}

// WaitFor waits until there is a file at path. It returns an error if ctx is done before.
func WaitFor(ctx context.Context, path string) error {
	if await(ctx, func() bool { _, err := os.Stat(path); return err == nil }) {
		return nil
	}
	return fmt.Errorf("there is no %s yet: is `refresher run` running?", path)
}

// await polls done. It reports whether done returned true before ctx was done.
func await(ctx context.Context, done func() bool) bool {
	look := time.NewTicker(waitInterval)
	defer look.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
		}
	}
	return true
}

func ready(credentialsDir string) bool {
	files, err := fileset.Read(credentialsDir)
	if err != nil {
		return false
	}
	state, err := parseState(files)
	return err == nil && time.Now().Before(state.NotAfter)
}

func reason(terminationLog string) error {
	message, err := os.ReadFile(terminationLog) //nolint:gosec // the path is the operator's
	if err != nil || len(message) == 0 {
		return errors.New("there is no credential yet, and no reason was given: is `refresher run` running?")
	}
	return errors.New(string(message))
}

// writeTerminationLog writes the termination message, which `kubectl describe pod` shows. The file
// is a mount of the kubelet and can only be overwritten.
func writeTerminationLog(path, sentence string) error {
	if len(sentence) > maxTerminationMessage {
		sentence = strings.ToValidUTF8(sentence[:maxTerminationMessage], "")
	}
	return os.WriteFile(path, []byte(sentence), 0o644) //nolint:gosec // the kubelet reads it
}
