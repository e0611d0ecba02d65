// Recording runs a command and records what it prints, as an asciicast (version 2) and as an
// animated SVG of a terminal.
//
//	recording -cast FILE -svg FILE [-title TEXT] [COMMAND [ARGUMENT...]]
//
// The command runs in the root of the repository. The SVG shortens pauses. Without a command, the
// SVG is made from the existing cast.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/keyferry/keyferry/e2e/release"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "recording:", err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("recording", flag.ContinueOnError)
	castFile := flags.String("cast", "", "file of the asciicast")
	svgFile := flags.String("svg", "", "file of the SVG")
	title := flags.String("title", "", "title of the recording")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *castFile == "" || *svgFile == "" {
		return errors.New("usage: recording -cast FILE -svg FILE [-title TEXT] [COMMAND [ARGUMENT...]]")
	}
	if command := flags.Args(); len(command) > 0 {
		recorded, err := record(ctx, command)
		if err != nil {
			return err
		}
		recorded.title = *title
		if err := write(*castFile, recorded.writeTo); err != nil {
			return err
		}
	}
	file, err := os.Open(*castFile)
	if err != nil {
		return err
	}
	defer file.Close()
	recorded, err := readCast(file)
	if err != nil {
		return fmt.Errorf("reading %s: %w", *castFile, err)
	}
	return write(*svgFile, recorded.writeSVG)
}

// record runs a command. If the command fails, there is no recording.
func record(ctx context.Context, command []string) (cast, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = release.Root()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	reader, writer, err := os.Pipe()
	if err != nil {
		return cast{}, err
	}
	defer reader.Close()
	cmd.Stdout, cmd.Stderr = writer, writer
	if err := errors.Join(cmd.Start(), writer.Close()); err != nil {
		return cast{}, err
	}
	recorded, err := capture(io.TeeReader(reader, os.Stdout), release.Root(), time.Now)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return cast{}, fmt.Errorf("%s: %w", strings.Join(command, " "), err)
	}
	recorded.events = append([]event{{output: "$ " + strings.Join(command, " ")}}, recorded.events...)
	return recorded, nil
}

func write(path string, content func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(content(file), file.Close())
}
