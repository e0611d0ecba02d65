// Loopback serves, for tests and for trying out a release, the hosts from which Keyferry is
// installed: the registries ghcr.io and registry.example.com, and at github.com the files of a
// release. It listens on the loopback interface only.
//
//	loopback [-files dist/release] [-version v1.2.3] [-dir DIR]
//
// It prints the environment with which curl and programs written in Go use it, as assignments for a
// shell, then an empty line. It runs until it is interrupted, or its standard input ends.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/keyferry/keyferry/tools/publish/loopback"
)

func main() {
	files := flag.String("files", "../../dist/release", "directory with the files of a release")
	version := flag.String("version", "v0.1.0", "version of the release")
	dir := flag.String("dir", ".", "directory for the CA certificate")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *files, *version, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "loopback:", err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

func run(ctx context.Context, files, version, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	internet, err := loopback.Serve(ctx, dir, map[string]http.Handler{
		"ghcr.io":              loopback.Registry(ctx),
		"registry.example.com": loopback.Registry(ctx),
		"github.com":           http.StripPrefix("/keyferry/keyferry/releases/download/"+version, http.FileServer(http.Dir(files))),
	})
	if err != nil {
		return err
	}
	for _, variable := range internet.Environment() {
		fmt.Println("export " + variable)
	}
	fmt.Println()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	<-ctx.Done()
	return nil
}
