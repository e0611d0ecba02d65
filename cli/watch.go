package cli

import (
	"context"
	"io"
	"time"

	"github.com/keyferry/keyferry/cli/terminal"
)

// watchInterval is the time between two looks at the cluster.
const watchInterval = 5 * time.Second

// clearScreen moves the cursor to the top and erases a terminal (ECMA-48, CUP and ED).
const clearScreen = "\x1b[H\x1b[2J"

// watch prints what render returns, and again each time that next has a value, until ctx ends. A
// terminal shows the last text only; elsewhere a text is printed if it differs from the one before.
func watch(ctx context.Context, out io.Writer, next <-chan time.Time, render func() (string, error)) error {
	isTerminal := terminal.Is(out)
	for last := ""; ; {
		text, err := render()
		if ctx.Err() != nil {
			return nil // Ctrl-C ends it
		}
		if err != nil {
			return err
		}
		switch {
		case isTerminal:
			_, err = io.WriteString(out, clearScreen+text)
		case last == "":
			_, err = io.WriteString(out, text)
		case text != last:
			_, err = io.WriteString(out, "\n"+text)
		}
		if err != nil {
			return err
		}
		last = text
		select {
		case <-next:
		case <-ctx.Done():
			return nil
		}
	}
}
