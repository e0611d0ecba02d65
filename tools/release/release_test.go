package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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
	if chart := files["keyferry/Chart.yaml"]; !strings.Contains(chart, "\nversion: 1.2.3\n") || !strings.Contains(chart, "\nappVersion: v1.2.3\n") {
		t.Errorf("Chart.yaml does not have the version:\n%s", chart)
	}
	for _, want := range []string{"keyferry/values.yaml", "keyferry/values.schema.json", "keyferry/templates/webhook.yaml", "keyferry/files/crd/keyferry.dev_targetclusters.yaml"} {
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
		if err := r.archive("keyferry", on, r.work, []string{"keyferry"}); err != nil {
			t.Fatal(err)
		}
	}
	files := contents(t, filepath.Join(r.out, "keyferry_v1.2.3_linux_arm64.tar.gz"))
	if files["keyferry"] != "program" || files["LICENSE"] == "" || len(files) != 2 {
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
	if want := []string{"keyferry.exe", "LICENSE"}; !slices.Equal(names, want) {
		t.Errorf("the archive for Windows has %q, want %q", names, want)
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
		if err := r.billOfMaterials([]program{{platform: platform{"linux", "amd64"}, name: "keyferry", path: self}, {platform: platform{"linux", "amd64"}, name: "broker", path: self}}); err != nil {
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
	if err := run(t.Context(), "../..", t.TempDir(), "1.2.3"); err == nil || !strings.Contains(err.Error(), "v1.2.3") {
		t.Errorf("got %v, want an error that shows how", err)
	}
}
