// Publish pushes a release to a container registry, and signs it:
//
//	publish -release dist/release -registry ghcr.io/keyferry -version v1.2.3 [-key cosign.key]
//
// It pushes the images of all architectures and the chart, and attaches to each a signature, its
// provenance and, for images, its bill of materials. It writes the signature and the provenance of
// SHA256SUMS, which cover all other files, next to it.
//
// Without a key, cosign signs with the identity of the workflow that runs it. What is there
// already, or signed already, is left alone. A tag is never moved.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

const repository = "github.com/keyferry/keyferry"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var p publisher
	flag.StringVar(&p.dir, "release", "../../dist/release", "directory with the files of the release")
	flag.StringVar(&p.registry, "registry", "", "registry and path to push to, such as ghcr.io/keyferry")
	flag.StringVar(&p.version, "version", "", "version of the release, such as v1.2.3")
	key := flag.String("key", "", "file with cosign's private key; COSIGN_PASSWORD decrypts it (default: sign without a key, in a GitHub workflow)")
	flag.Parse()
	p.log = os.Stderr
	err := p.check()
	if err == nil {
		err = p.run(ctx, *key)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
		os.Exit(1) //nolint:gocritic // what stop undoes ends with the process
	}
}

// publisher publishes one release.
type publisher struct {
	dir, registry, version string
	log                    io.Writer
}

func (p publisher) check() error {
	if p.registry == "" {
		return errors.New("-registry: no registry: use one such as ghcr.io/keyferry")
	}
	if !strings.HasPrefix(p.version, "v") {
		return fmt.Errorf("-version: invalid version %q (example: v1.2.3)", p.version)
	}
	return nil
}

func (p publisher) run(ctx context.Context, key string) error {
	if err := checkSums(p.dir); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "keyferry-publish-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	artifacts, err := p.artifacts(work)
	if err != nil {
		return err
	}
	s, err := newSigner(ctx, work, key, p.version)
	if err != nil {
		return err
	}
	provenance, err := p.writeProvenance(ctx, work)
	if err != nil {
		return err
	}
	// No artifact that can be pulled stays unsigned for longer than its own signing takes.
	for _, a := range artifacts {
		reference, err := p.push(ctx, a)
		if err != nil {
			return fmt.Errorf("pushing %s:%s: %w", a.repository, a.tag, err)
		}
		attested := map[string]string{"slsaprovenance1": provenance}
		if a.materials != "" {
			attested["spdxjson"] = a.materials
		}
		if err := p.sign(ctx, s, reference, attested); err != nil {
			return fmt.Errorf("signing %s: %w", reference, err)
		}
	}
	return p.signFiles(ctx, s, provenance)
}

// sign signs an artifact and its attestations, files by their types.
func (p publisher) sign(ctx context.Context, s *signer, reference string, attested map[string]string) error {
	signed, err := s.signArtifact(ctx, reference)
	if err != nil {
		return err
	}
	p.report(signed, reference, "signed")
	for _, kind := range []string{"slsaprovenance1", "spdxjson"} {
		if attested[kind] == "" {
			continue
		}
		signed, err := s.attest(ctx, reference, kind, attested[kind])
		if err != nil {
			return fmt.Errorf("attestation %s: %w", kind, err)
		}
		p.report(signed, reference, "attested "+kind)
	}
	return nil
}

// signFiles signs SHA256SUMS, and its provenance.
func (p publisher) signFiles(ctx context.Context, s *signer, provenance string) error {
	sums := filepath.Join(p.dir, checksums)
	signed, err := s.signFile(ctx, sums)
	if err != nil {
		return fmt.Errorf("signing %s: %w", checksums, err)
	}
	p.report(signed, checksums, "signed")
	signed, err = s.attestFile(ctx, sums, provenance)
	if err != nil {
		return fmt.Errorf("attesting %s: %w", checksums, err)
	}
	p.report(signed, checksums, "attested slsaprovenance1")
	return nil
}

// report logs what was done to an object, or that it was done before.
func (p publisher) report(now bool, object, what string) {
	if !now {
		what = "already " + what
	}
	fmt.Fprintf(p.log, "%s: %s\n", object, what)
}
