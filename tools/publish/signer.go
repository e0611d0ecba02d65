package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// signer signs with cosign, and leaves alone what has a valid signature already.
type signer struct {
	// signing and verifying are the arguments that say with which key or identity.
	signing, verifying []string
}

// newSigner returns a signer with a key or, without one, with the identity of the workflow that
// publishes this version. Signatures by a key are in no transparency log: a user with the public
// key needs none. Its files are in dir.
func newSigner(ctx context.Context, dir, key, version string) (*signer, error) {
	if key == "" {
		return &signer{signing: []string{"--yes"}, verifying: []string{
			"--certificate-identity", "https://" + repository + "/.github/workflows/release.yml@refs/tags/" + version,
			"--certificate-oidc-issuer", "https://token.actions.githubusercontent.com",
		}}, nil
	}
	services, public := filepath.Join(dir, "no-services.json"), filepath.Join(dir, "cosign.pub")
	if err := os.WriteFile(services, []byte(`{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}`), 0o600); err != nil {
		return nil, err
	}
	key, err := filepath.Abs(key)
	if err != nil {
		return nil, err
	}
	if err := cosign(ctx, "public-key", "--key", key, "--outfile", public); err != nil {
		return nil, err
	}
	return &signer{
		signing:   []string{"--yes", "--key", key, "--signing-config", services},
		verifying: []string{"--key", public, "--insecure-ignore-tlog"},
	}, nil
}

// signArtifact signs a reference by digest. It reports whether there was no signature before.
func (s *signer) signArtifact(ctx context.Context, reference string) (bool, error) {
	return s.unlessVerified(ctx, []string{"verify", reference}, []string{"sign", reference})
}

// attest attaches a signed statement about an artifact, whose predicate is in a file.
func (s *signer) attest(ctx context.Context, reference, kind, file string) (bool, error) {
	return s.unlessVerified(ctx,
		[]string{"verify-attestation", "--type", kind, reference},
		[]string{"attest", "--type", kind, "--predicate", file, reference})
}

// signFile writes the signature of a file next to it.
func (s *signer) signFile(ctx context.Context, file string) (bool, error) {
	bundle := file + ".sigstore.json"
	return s.unlessVerified(ctx,
		[]string{"verify-blob", "--bundle", bundle, file},
		[]string{"sign-blob", "--bundle", bundle, file})
}

// attestFile writes a signed statement about a file next to it.
func (s *signer) attestFile(ctx context.Context, file, predicate string) (bool, error) {
	bundle := file + ".provenance.sigstore.json"
	return s.unlessVerified(ctx,
		[]string{"verify-blob-attestation", "--type", "slsaprovenance1", "--bundle", bundle, file},
		[]string{"attest-blob", "--type", "slsaprovenance1", "--predicate", predicate, "--bundle", bundle, file})
}

// unlessVerified runs cosign to sign, unless it verifies. If it cannot verify for another reason
// than a missing signature, such as a registry that does not answer, it cannot sign either, and
// says why.
func (s *signer) unlessVerified(ctx context.Context, verify, sign []string) (signed bool, err error) {
	if cosign(ctx, slices.Concat(verify, s.verifying)...) == nil {
		return false, nil
	}
	return true, cosign(ctx, slices.Concat(sign, s.signing)...)
}

// cosign runs cosign in the version that this repository pins.
func cosign(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "../run", append([]string{"cosign"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cosign %s: %w\n%s", args[0], err, out.String())
	}
	return nil
}
