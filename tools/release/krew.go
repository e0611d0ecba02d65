package main

import (
	"fmt"
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
    Registers clusters, grants access to them, and explains why a Pod gets no credential for another cluster.
    Shows the Pods that use a cluster, and when their credentials expire.
  platforms:
`

const krewPlatform = `  - selector: {matchLabels: {os: %s, arch: %s}}
    uri: https://%s/releases/download/%s/%s
    sha256: %s
    bin: %s
`

// krew writes the manifest with which krew installs the command as a plugin of kubectl. Krew
// unpacks a whole archive if the manifest lists no files.
func (r release) krew() error {
	var manifest strings.Builder
	fmt.Fprintf(&manifest, krewHeader, r.version)
	for _, on := range r.platforms {
		archive := r.archiveOf("keyferry", on)
		sum, err := r.checksum(archive)
		if err != nil {
			return err
		}
		fmt.Fprintf(&manifest, krewPlatform, on.os, on.arch, module, r.version, archive, sum, executable(on, "keyferry"))
	}
	return r.write("keyferry-krew.yaml", []byte(manifest.String()))
}
