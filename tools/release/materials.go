package main

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const none = "NOASSERTION"

// billsOfMaterials writes one bill for all programs, and one for each image, which contains the
// programs of Linux.
func (r release) billsOfMaterials(built []program) error {
	if err := r.billOfMaterials("keyferry", built); err != nil {
		return err
	}
	for _, image := range images() {
		var inside []program
		for _, p := range built {
			if p.os == "linux" && (p.name == "refresher") == (image == "refresher") {
				inside = append(inside, p)
			}
		}
		if len(inside) == 0 {
			continue
		}
		if err := r.billOfMaterials("image-"+image, inside); err != nil {
			return err
		}
	}
	return nil
}

// billOfMaterials writes the modules of each program, as SPDX 2.3 in JSON. Each program records
// them itself.
func (r release) billOfMaterials(name string, built []program) error {
	document := &spdx.Document{
		SPDXVersion:       spdx.Version,
		DataLicense:       spdx.DataLicense,
		SPDXIdentifier:    "DOCUMENT",
		DocumentName:      name + "-" + r.version,
		DocumentNamespace: "https://" + module + "/releases/download/" + r.version + "/" + name + ".spdx.json",
		CreationInfo: &spdx.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Organization", Creator: "The Keyferry maintainers"}, {CreatorType: "Tool", Creator: "keyferry-release"}},
			Created:  r.time.Format("2006-01-02T15:04:05Z"),
		},
	}
	modules := map[string]*spdx.Package{}
	for _, p := range built {
		info, err := buildinfo.ReadFile(p.path)
		if err != nil {
			return fmt.Errorf("reading how %s was built: %w", p.path, err)
		}
		name := strings.Join([]string{p.name, p.os, p.arch}, "-")
		part := materialOf(name, r.version)
		part.PackageDownloadLocation = "https://" + module + "/releases/tag/" + r.version
		part.PackageLicenseDeclared, part.PackageLicenseConcluded = "Apache-2.0", "Apache-2.0"
		document.Packages = append(document.Packages, part)
		document.Relationships = append(document.Relationships, relation("DOCUMENT", "DESCRIBES", part.PackageSPDXIdentifier))
		for _, m := range modulesOf(info) {
			if modules[m.path+m.version] == nil {
				material := materialOf(m.path, m.version)
				material.PackageExternalReferences = []*spdx.PackageExternalReference{{
					Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: "pkg:golang/" + m.path + "@" + m.version,
				}}
				modules[m.path+m.version] = material
			}
			document.Relationships = append(document.Relationships, relation(part.PackageSPDXIdentifier, "DEPENDS_ON", modules[m.path+m.version].PackageSPDXIdentifier))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(modules)) {
		document.Packages = append(document.Packages, modules[key])
	}
	var b bytes.Buffer
	if err := json.Write(document, &b, json.Indent("  ")); err != nil {
		return fmt.Errorf("writing the bill of materials: %w", err)
	}
	return r.write(name+"_"+r.version+".spdx.json", b.Bytes())
}

type material struct{ path, version string }

// modulesOf are the modules in a program, and the standard library.
func modulesOf(info *buildinfo.BuildInfo) []material {
	all := []material{{"stdlib", strings.TrimPrefix(info.GoVersion, "go")}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		all = append(all, material{m.Path, m.Version})
	}
	return all
}

var notInIdentifiers = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func materialOf(name, version string) *spdx.Package {
	return &spdx.Package{
		PackageName:             name,
		PackageSPDXIdentifier:   common.ElementID("Package-" + notInIdentifiers.ReplaceAllString(name+"-"+version, "-")),
		PackageVersion:          version,
		PackageDownloadLocation: none,
		PackageLicenseConcluded: none,
		PackageLicenseDeclared:  none,
		PackageCopyrightText:    none,
	}
}

func relation(from common.ElementID, kind string, to common.ElementID) *spdx.Relationship {
	return &spdx.Relationship{RefA: common.MakeDocElementID("", string(from)), RefB: common.MakeDocElementID("", string(to)), Relationship: kind}
}
