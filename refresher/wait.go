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

// waitInterval is how often Wait looks; it holds back the start of the application, so it is short.
const waitInterval = 5 * time.Millisecond

// maxTerminationMessage is what the kubelet reads of a termination message.
const maxTerminationMessage = 4096

// Wait returns nil once there is a whole set of files in credentialsDir whose credential has not
// ended. If ctx ends before, its error is the reason that Run last gave in terminationLog.
func Wait(ctx context.Context, credentialsDir, terminationLog string) error {
	if await(ctx, func() bool { return ready(credentialsDir) }) {
		return nil
	}
	return reason(terminationLog)
}

// WaitFor returns nil once there is a file at path, or an error if ctx ends before.
func WaitFor(ctx context.Context, path string) error {
	if await(ctx, func() bool { _, err := os.Stat(path); return err == nil }) {
		return nil
	}
	return fmt.Errorf("there is no %s yet: is `refresher run` running?", path)
}

// await reports whether something is done before ctx ends.
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

// writeTerminationLog makes sentence what `kubectl describe pod` shows when the container ends. The
// file is a mount of the kubelet's and can only be overwritten.
func writeTerminationLog(path, sentence string) error {
	if len(sentence) > maxTerminationMessage {
		sentence = strings.ToValidUTF8(sentence[:maxTerminationMessage], "")
	}
	return os.WriteFile(path, []byte(sentence), 0o644) //nolint:gosec // the kubelet reads it
}
