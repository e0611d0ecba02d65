package main

import (
	"fmt"
	"strings"
)

const formulaHeader = `class Keyferry < Formula
  desc "Give Pods credentials for other clusters"
  homepage "https://%s"
  version "%s"
  license "Apache-2.0"
`

const formulaPlatform = `
  on_%s do
    on_%s do
      url "https://%s/releases/download/%s/%s"
      sha256 "%s"
    end
  end
`

const formulaFooter = `
  def install
    bin.install "keyferry", "kubectl_complete-keyferry"
    bin.install_symlink "keyferry" => "kubectl-keyferry"
    man1.install Dir["man/*.1"]
    bash_completion.install "completion/keyferry.bash" => "keyferry"
    zsh_completion.install "completion/_keyferry"
    fish_completion.install "completion/keyferry.fish"
  end

  test do
    assert_match "v#{version}", shell_output("#{bin}/keyferry version --client")
  end
end
`

// homebrew writes a formula with which Homebrew installs the command, on macOS and Linux.
func (r release) homebrew() error {
	systems := map[string]string{"darwin": "macos", "linux": "linux"}
	processors := map[string]string{"amd64": "intel", "arm64": "arm"}
	var formula strings.Builder
	fmt.Fprintf(&formula, formulaHeader, module, strings.TrimPrefix(r.version, "v"))
	for _, on := range r.platforms {
		if systems[on.os] == "" {
			continue
		}
		archive := r.archiveOf("keyferry", on)
		sum, err := r.checksum(archive)
		if err != nil {
			return err
		}
		fmt.Fprintf(&formula, formulaPlatform, systems[on.os], processors[on.arch], module, r.version, archive, sum)
	}
	formula.WriteString(formulaFooter)
	return r.write("keyferry.rb", []byte(formula.String()))
}
