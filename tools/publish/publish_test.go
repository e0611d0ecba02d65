package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/keyferry/keyferry/tools/publish/loopback"
)

const version = "v1.2.3"

// newRelease writes a release with stand-ins for the programs, once for all tests, and returns a
// copy.
func newRelease(t *testing.T) string {
	t.Helper()
	written, err := writeRelease()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(written)); err != nil {
		t.Fatal(err)
	}
	return dir
}

var writeRelease = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "keyferry-release-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("testdata/release.sh", version, dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := writeRelease(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// newKey generates a key pair of cosign without a password, and returns the private one.
func newKey(t *testing.T) string {
	t.Helper()
	t.Setenv("COSIGN_PASSWORD", "")
	prefix := filepath.Join(t.TempDir(), "cosign")
	if err := cosign(t.Context(), "generate-key-pair", "--output-key-prefix", prefix); err != nil {
		t.Fatal(err)
	}
	return prefix + ".key"
}

// registry is a CNCF distribution registry that counts the requests that change something.
type registry struct {
	*httptest.Server
	mu      sync.Mutex
	changes []string
}

func newRegistry(t *testing.T) *registry {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	content := loopback.Registry(ctx)
	r := &registry{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.Method != http.MethodGet && request.Method != http.MethodHead {
			r.mu.Lock()
			r.changes = append(r.changes, request.Method+" "+request.URL.Path)
			r.mu.Unlock()
		}
		content.ServeHTTP(w, request)
	}))
	t.Cleanup(r.Close)
	return r
}

// host returns the registry's address as it is in references.
func (r *registry) host() string { return strings.TrimPrefix(r.URL, "http://") }

// taken returns the requests since the last call.
func (r *registry) taken() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	changes := r.changes
	r.changes = nil
	return changes
}

// TestPublish publishes to a registry twice. The first time everything is pushed and signed, the
// second time nothing.
func TestPublish(t *testing.T) {
	r, key := newRegistry(t), newKey(t)
	var log bytes.Buffer
	p := publisher{dir: newRelease(t), registry: r.host() + "/keyferry", version: version, log: &log}
	if err := p.run(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if len(r.taken()) == 0 || strings.Contains(log.String(), "already") {
		t.Errorf("the first time:\n%s", &log)
	}
	first := log.String()
	checkImages(t, p.registry)
	checkSignatures(t, p, strings.TrimSuffix(key, ".key")+".pub")

	log.Reset()
	if err := p.run(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if changes := r.taken(); len(changes) > 0 {
		t.Errorf("the second time changed the registry: %q", changes)
	}
	if again := strings.ReplaceAll(log.String(), "already ", ""); again != first || strings.Count(log.String(), "already") != strings.Count(first, "\n") {
		t.Errorf("the second time:\n%s\nthe first time:\n%s", &log, first)
	}
}

// checkImages: nodes of both architectures find an image below each tag, and Helm a chart.
func checkImages(t *testing.T, at string) {
	t.Helper()
	for _, image := range []string{"keyferry:" + version, "refresher:" + version} {
		reference, err := name.ParseReference(at + "/" + image)
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(reference)
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		var archs []string
		for _, one := range manifest.Manifests {
			archs = append(archs, one.Platform.Architecture)
		}
		if !slices.Equal(archs, []string{"amd64", "arm64"}) {
			t.Errorf("%s is for %q", image, archs)
		}
	}
	out, err := exec.CommandContext(t.Context(), "../run", "helm", "show", "chart", "--plain-http", "oci://"+at+"/charts/keyferry", "--version", "1.2.3").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\nappVersion: v1.2.3\n") {
		t.Errorf("helm: %v\n%s", err, out)
	}
}

// checkSignatures verifies what cosign signed.
func checkSignatures(t *testing.T, p publisher, public string) {
	t.Helper()
	with := []string{"--key", public, "--insecure-ignore-tlog"}
	sums := filepath.Join(p.dir, checksums)
	for _, args := range [][]string{
		{"verify", p.registry + "/keyferry:" + version},
		{"verify", p.registry + "/refresher:" + version},
		{"verify", p.registry + "/charts/keyferry:1.2.3"},
		{"verify-attestation", "--type", "slsaprovenance1", p.registry + "/keyferry:" + version},
		{"verify-attestation", "--type", "spdxjson", p.registry + "/keyferry:" + version},
		{"verify-attestation", "--type", "spdxjson", p.registry + "/refresher:" + version},
		{"verify-attestation", "--type", "slsaprovenance1", p.registry + "/charts/keyferry:1.2.3"},
		{"verify-blob", "--bundle", sums + ".sigstore.json", sums},
		{"verify-blob-attestation", "--type", "slsaprovenance1", "--bundle", sums + ".provenance.sigstore.json", sums},
	} {
		if err := cosign(t.Context(), slices.Concat(args, with)...); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestOtherKey: a signature by another key is no reason to leave an artifact unsigned.
func TestOtherKey(t *testing.T) {
	r := newRegistry(t)
	p := publisher{registry: r.host(), log: t.Output()}
	reference, err := p.push(t.Context(), artifact{repository: "keyferry", tag: version, content: empty.Index})
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSigner(t.Context(), t.TempDir(), newKey(t), version)
	if err != nil {
		t.Fatal(err)
	}
	own, err := newSigner(t.Context(), t.TempDir(), newKey(t), version)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range []*signer{other, own, own} {
		if signed, err := s.signArtifact(t.Context(), reference); err != nil || signed != (i < 2) {
			t.Errorf("the signature %d: signed %t, %v", i, signed, err)
		}
	}
}

// TestTagsStay: a version that is published is never replaced.
func TestTagsStay(t *testing.T) {
	r := newRegistry(t)
	p := publisher{registry: r.host(), log: t.Output()}
	published := artifact{repository: "keyferry", tag: version, content: empty.Index}
	if _, err := p.push(t.Context(), published); err != nil {
		t.Fatal(err)
	}
	r.taken()
	published.content = mutate.IndexMediaType(empty.Index, types.DockerManifestList)
	if _, err := p.push(t.Context(), published); err == nil || !strings.HasPrefix(err.Error(), "the tag exists with other content, sha256:") {
		t.Errorf("got %v", err)
	}
	if changes := r.taken(); len(changes) > 0 {
		t.Errorf("it changed the registry: %q", changes)
	}
}

// TestCheckSums: files that are not those of SHA256SUMS are not published.
func TestCheckSums(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := checkSums(dir); err == nil || !strings.Contains(err.Error(), "run make release first") {
		t.Errorf("without files: %v", err)
	}
	sums := fmt.Sprintf("%x  a\n", sha256.Sum256([]byte("content")))
	for file, content := range map[string]string{"a": "content", checksums: sums} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkSums(dir); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkSums(dir); err == nil || !strings.HasPrefix(err.Error(), "a: its checksum is") {
		t.Errorf("a changed file: %v", err)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ registry, version, want string }{
		{"ghcr.io/keyferry", version, ""},
		{"", version, "-registry: no registry"},
		{"ghcr.io/keyferry", "1.2.3", `-version: invalid version "1.2.3"`},
	} {
		err := publisher{registry: test.registry, version: test.version}.check()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: got %v", test, err)
		}
	}
}

// TestProvenance: it names the commit, and the workflow that built the release.
func TestProvenance(t *testing.T) {
	t.Parallel()
	workflow := map[string]string{
		"GITHUB_WORKFLOW_REF": "keyferry/keyferry/.github/workflows/release.yml@refs/tags/v1.2.3",
		"GITHUB_REPOSITORY":   "keyferry/keyferry", "GITHUB_RUN_ID": "7", "GITHUB_RUN_ATTEMPT": "2",
	}
	built := newProvenance(version, "c0ffee", func(name string) string { return workflow[name] })
	source := built.BuildDefinition.ResolvedDependencies[0]
	if source.URI != "git+https://github.com/keyferry/keyferry@refs/tags/v1.2.3" || source.Digest["gitCommit"] != "c0ffee" {
		t.Errorf("source %+v", source)
	}
	if run := built.RunDetails; run.Builder.ID != "https://github.com/keyferry/keyferry/.github/workflows/release.yml@refs/tags/v1.2.3" ||
		run.Metadata.InvocationID != "https://github.com/keyferry/keyferry/actions/runs/7/attempts/2" {
		t.Errorf("run %+v", run)
	}
	byHand := newProvenance(version, "c0ffee", func(string) string { return "" })
	if strings.Contains(byHand.RunDetails.Builder.ID, "workflows") || byHand.RunDetails.Metadata.InvocationID != "" {
		t.Errorf("a release built by hand says that it is of a workflow: %+v", byHand.RunDetails)
	}
}
