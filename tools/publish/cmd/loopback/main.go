// Loopback serves, for tests and for trying out a release, the hosts from which Keyferry is
// installed: the registries ghcr.io and registry.example.com, and at github.com the files of a
// release. It listens on the loopback interface only, unless nodes of a cluster pull from it.
//
//	loopback [-files dist/release] [-version v1.2.3] [-dir DIR] [-nodes 172.18.0.1]
//
// It prints the environment with which curl and programs written in Go use it, as assignments for a
// shell, then an empty line. With -nodes, REGISTRY is the URL of ghcr.io for nodes. It runs until
// it is interrupted, or its standard input ends.
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
	nodes := flag.String("nodes", "", "address at which nodes of a cluster reach this machine; ghcr.io is served there too, over plain HTTP")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *files, *version, *dir, *nodes); err != nil {
		fmt.Fprintln(os.Stderr, "loopback:", err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

func run(ctx context.Context, files, version, dir, nodes string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ghcr := loopback.Registry(ctx)
	internet, err := loopback.Serve(ctx, dir, map[string]http.Handler{
		"ghcr.io":              ghcr,
		"registry.example.com": loopback.Registry(ctx),
		"github.com":           http.StripPrefix("/keyferry/keyferry/releases/download/"+version, http.FileServer(http.Dir(files))),
	})
	if err != nil {
		return err
	}
	environment := internet.Environment()
	if nodes != "" {
		address, err := loopback.ServeAt(ctx, nodes, ghcr)
		if err != nil {
			return err
		}
		environment = append(environment, "REGISTRY=http://"+address)
	}
	for _, variable := range environment {
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
