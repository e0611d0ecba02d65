package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// newRelease writes into a new folder.
func newRelease(t *testing.T) release {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return release{root: root, out: t.TempDir(), work: t.TempDir(), version: "v1.2.3", time: time.Unix(1_700_000_000, 0).UTC()}
}

// contents are the files of a compressed tar archive.
func contents(t *testing.T, archive string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(unzipped); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !header.ModTime.Equal(time.Unix(0, 0)) || header.Uid != 0 {
			t.Errorf("%s: %s is of %s and of user %d", archive, header.Name, header.ModTime, header.Uid)
		}
		file, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(file)
	}
}

func TestChart(t *testing.T) {
	t.Parallel()
	r := newRelease(t)
	if err := r.chart(); err != nil {
		t.Fatal(err)
	}
	files := contents(t, filepath.Join(r.out, "keyferry-1.2.3.tgz"))
	if chart := files["keyferry/Chart.yaml"]; !strings.Contains(chart, "\nversion: 1.2.3\n") || !strings.Contains(chart, "\nappVersion: v1.2.3\n") ||
		strings.Count(chart, ":v1.2.3\n") != len(images()) {
		t.Errorf("Chart.yaml does not have the version:\n%s", chart)
	}
	for _, want := range []string{"keyferry/README.md", "keyferry/values.yaml", "keyferry/values.schema.json", "keyferry/templates/webhook.yaml", "keyferry/files/crd/keyferry.dev_targetclusters.yaml"} {
		if files[want] == "" {
			t.Errorf("%s is missing", want)
		}
	}
	for name := range files {
		if strings.HasPrefix(name, "keyferry/ci/") {
			t.Errorf("%s is for tests only", name)
		}
	}
}

func TestArchives(t *testing.T) {
	t.Parallel()
	r := newRelease(t)
	for _, name := range []string{"keyferry", "keyferry.exe"} {
		if err := os.WriteFile(filepath.Join(r.work, name), []byte("program"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, on := range []platform{{"linux", "arm64"}, {"windows", "amd64"}} {
		if err := r.archive("keyferry", on, r.work, []string{"keyferry"}, []file{{"man/keyferry.1", 0o644, []byte("page")}}); err != nil {
			t.Fatal(err)
		}
	}
	files := contents(t, filepath.Join(r.out, "keyferry_v1.2.3_linux_arm64.tar.gz"))
	if files["keyferry"] != "program" || files["LICENSE"] == "" || files["man/keyferry.1"] != "page" || len(files) != 3 {
		t.Errorf("the archive for Linux has %d files", len(files))
	}
	content, err := os.ReadFile(filepath.Join(r.out, "keyferry_v1.2.3_windows_amd64.zip"))
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range zipped.File {
		names = append(names, file.Name)
	}
	if want := []string{"keyferry.exe", "LICENSE", "man/keyferry.1"}; !slices.Equal(names, want) {
		t.Errorf("the archive for Windows has %q, want %q", names, want)
	}
}

// writeArchives writes the command's archives for all platforms, with stand-ins for the programs.
func (r *release) writeArchives(t *testing.T) {
	t.Helper()
	var err error
	if r.platforms, err = parsePlatforms(platforms); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"keyferry", "keyferry.exe"} {
		if err := os.WriteFile(filepath.Join(r.work, name), []byte("program"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, on := range r.platforms {
		if err := r.archive("keyferry", on, r.work, []string{"keyferry"}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHomebrew: the formula has the URL and the checksum of each archive for macOS and Linux.
func TestHomebrew(t *testing.T) {
	t.Parallel()
	r := newRelease(t)
	r.writeArchives(t)
	if err := r.homebrew(); err != nil {
		t.Fatal(err)
	}
	formula, err := os.ReadFile(filepath.Join(r.out, "keyferry.rb"))
	if err != nil {
		t.Fatal(err)
	}
	downloads := regexp.MustCompile(`on_(macos|linux) do\n    on_(intel|arm) do\n      url "([^"]+)"\n      sha256 "([^"]+)"`).FindAllStringSubmatch(string(formula), -1)
	if len(downloads) != 4 {
		t.Errorf("%d downloads:\n%s", len(downloads), formula)
	}
	archives := map[string]string{"macos": "darwin", "linux": "linux", "intel": "amd64", "arm": "arm64"}
	for _, download := range downloads {
		name := "keyferry_v1.2.3_" + archives[download[1]] + "_" + archives[download[2]] + ".tar.gz"
		if sum, err := r.checksum(name); err != nil || sum != download[4] || download[3] != "https://"+module+"/releases/download/v1.2.3/"+name {
			t.Errorf("%s: %v, %q", name, err, download[3:])
		}
	}
}

// TestKrew does with the manifest what krew does: for a platform it verifies an archive, unpacks
// it, and links to the program.
func TestKrew(t *testing.T) {
	t.Parallel()
	r := newRelease(t)
	r.writeArchives(t)
	if err := r.krew(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(r.out, "keyferry-krew.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
		Spec             struct {
			Version, Homepage, ShortDescription, Description string
			Platforms                                        []struct {
				Selector         struct{ MatchLabels struct{ OS, Arch string } }
				URI, SHA256, Bin string
			}
		}
	}
	if err := yaml.UnmarshalStrict(content, &manifest); err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	if manifest.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || manifest.Kind != "Plugin" || manifest.Metadata.Name != "keyferry" || manifest.Spec.Version != "v1.2.3" {
		t.Errorf("manifest %+v", manifest)
	}
	if got, want := len(manifest.Spec.Platforms), len(r.platforms); got != want {
		t.Fatalf("%d platforms, want %d", got, want)
	}
	for _, p := range manifest.Spec.Platforms {
		name, found := strings.CutPrefix(p.URI, "https://github.com/keyferry/keyferry/releases/download/v1.2.3/")
		archive, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil || !found {
			t.Errorf("URI %s: %v", p.URI, err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(archive)); got != p.SHA256 {
			t.Errorf("%s has the checksum %s, not %s", name, got, p.SHA256)
		}
		if on := p.Selector.MatchLabels; !strings.Contains(name, on.OS+"_"+on.Arch+".") || (p.Bin == "keyferry.exe") != (on.OS == "windows") {
			t.Errorf("%s has %s from %s", on, p.Bin, name)
		}
	}
}

// TestReproducible builds twice, from copies of this work tree in two folders, at two times:
// whatever a release is made of is the same. It is for one platform, and compiles nothing twice;
// tools/check-reproducible does.
func TestReproducible(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	folder := t.TempDir()
	dirs := []string{filepath.Join(folder, "one"), filepath.Join(folder, "another", "further", "down")}
	for _, dir := range dirs {
		copyTree(t, dir)
	}
	var sums []string
	for i, zone := range []string{"UTC", "Asia/Seoul"} {
		t.Setenv("TZ", zone)
		if err := run(t.Context(), dirs[i], "", "v1.2.3", "linux/"+runtime.GOARCH, ""); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join(dirs[i], "dist", "release", "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, string(content))
	}
	if sums[0] != sums[1] {
		t.Errorf("one folder has\n%s\nand the other\n%s", sums[0], sums[1])
	}
	for _, want := range []string{
		"  image-keyferry_v1.2.3.oci.tar\n", "  image-refresher_v1.2.3.oci.tar\n", "  keyferry-1.2.3.tgz\n",
		"  keyferry-components_v1.2.3_linux_", "  keyferry_v1.2.3_linux_", "  keyferry-krew.yaml\n", "  keyferry.rb\n", "  install.yaml\n",
		"  keyferry_v1.2.3.spdx.json\n", "  image-keyferry_v1.2.3.spdx.json\n", "  image-refresher_v1.2.3.spdx.json\n",
	} {
		if !strings.Contains(sums[0], want) {
			t.Errorf("a release has no%s", want)
		}
	}
	files := contents(t, filepath.Join(dirs[0], "dist", "release", "keyferry_v1.2.3_linux_"+runtime.GOARCH+".tar.gz"))
	for _, want := range []string{
		"keyferry", "LICENSE", "kubectl_complete-keyferry", "completion/keyferry.bash", "completion/_keyferry", "completion/keyferry.fish",
		"man/keyferry.1", "man/keyferry-check.1",
	} {
		if files[want] == "" {
			t.Errorf("the archive of the command has no %s", want)
		}
	}
}

// copyTree copies what git knows, or would add, of this work tree.
func copyTree(t *testing.T, to string) {
	t.Helper()
	list, err := exec.CommandContext(t.Context(), "git", "-C", "../..", "ls-files", "-co", "--exclude-standard", "-z").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join("../..", name))
		if errors.Is(err, os.ErrNotExist) { // it is deleted, and not committed yet
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join("../..", name))
		file := filepath.Join(to, name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, content, info.Mode()))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestBillOfMaterials takes this test's own program for one of the release.
func TestBillOfMaterials(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := newRelease(t)
	var texts []string
	for range 2 {
		if err := r.billOfMaterials("keyferry", []program{{platform: platform{"linux", "amd64"}, name: "keyferry", path: self}, {platform: platform{"linux", "amd64"}, name: "broker", path: self}}); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join(r.out, "keyferry_v1.2.3.spdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(content))
	}
	if texts[0] != texts[1] {
		t.Error("the same programs have two bills of materials")
	}
	var bill struct {
		SPDXVersion  string
		CreationInfo struct{ Created string }
		Packages     []struct {
			Name         string
			SPDXID       string
			VersionInfo  string
			ExternalRefs []struct{ ReferenceLocator string }
		}
		Relationships []struct{ SPDXElementID, RelationshipType, RelatedSPDXElement string }
	}
	if err := json.Unmarshal([]byte(texts[0]), &bill); err != nil {
		t.Fatal(err)
	}
	if bill.SPDXVersion != "SPDX-2.3" || bill.CreationInfo.Created != "2023-11-14T22:13:20Z" {
		t.Errorf("version %s, created %s", bill.SPDXVersion, bill.CreationInfo.Created)
	}
	ids := map[string]bool{"SPDXRef-DOCUMENT": true}
	var locators, names []string
	for _, p := range bill.Packages {
		if ids[p.SPDXID] {
			t.Errorf("two packages have the identifier %s", p.SPDXID)
		}
		ids[p.SPDXID] = true
		names = append(names, p.Name)
		for _, ref := range p.ExternalRefs {
			locators = append(locators, ref.ReferenceLocator)
		}
	}
	if !slices.Contains(names, "keyferry-linux-amd64") || !slices.Contains(names, "broker-linux-amd64") || !slices.Contains(names, "stdlib") {
		t.Errorf("packages %q", names)
	}
	if !slices.ContainsFunc(locators, func(l string) bool { return strings.HasPrefix(l, "pkg:golang/github.com/spdx/tools-golang@v") }) {
		t.Errorf("modules %q", locators)
	}
	for _, relationship := range bill.Relationships {
		if !ids[relationship.SPDXElementID] || !ids[relationship.RelatedSPDXElement] {
			t.Errorf("%v is about something that is not there", relationship)
		}
	}
}

func TestChecksums(t *testing.T) {
	t.Parallel()
	r := newRelease(t)
	if err := r.write("a", []byte("content")); err != nil {
		t.Fatal(err)
	}
	if err := r.checksums(); err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(r.out, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73  a\n"; string(sums) != want {
		t.Errorf("got %s, want %s", sums, want)
	}
}

func TestVersionMustMakeSense(t *testing.T) {
	t.Parallel()
	if err := run(t.Context(), "../..", t.TempDir(), "1.2.3", platforms, ""); err == nil || !strings.Contains(err.Error(), "v1.2.3") {
		t.Errorf("got %v, want an error that shows how", err)
	}
}
