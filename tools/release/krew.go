package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const krewHeader = `apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: keyferry
spec:
  version: %s
  homepage: https://github.com/keyferry/keyferry
  shortDescription: Give Pods credentials for other clusters
  description: |
    Says why a Pod does, or does not, get its credential for another cluster, who uses which cluster and what ends when; prints manifests
    as Keyferry's webhook would change them; issues one credential, also as a credential plugin.
  platforms:
`

const krewPlatform = `  - selector: {matchLabels: {os: %s, arch: %s}}
    uri: https://%s/releases/download/%s/%s
    sha256: %x
    bin: %s
`

// krew writes the manifest by which krew installs the command as a plugin of kubectl, from the archives that are written. Krew unpacks
// all of an archive where no files are listed.
func (r release) krew() error {
	var manifest strings.Builder
	fmt.Fprintf(&manifest, krewHeader, r.version)
	for _, on := range r.platforms {
		archive := r.archiveOf("keyferry", on)
		content, err := os.ReadFile(filepath.Join(r.out, archive))
		if err != nil {
			return err
		}
		fmt.Fprintf(&manifest, krewPlatform, on.os, on.arch, module, r.version, archive, sha256.Sum256(content), executable(on, "keyferry"))
	}
	return r.write("keyferry-krew.yaml", []byte(manifest.String()))
}
