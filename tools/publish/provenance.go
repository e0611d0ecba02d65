package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// buildType is what externalParameters means: docs/verify.md explains it.
const buildType = "https://" + repository + "/blob/main/docs/verify.md#provenance"

// provenance is a predicate of SLSA: https://slsa.dev/spec/v1.1/provenance
type provenance struct {
	BuildDefinition buildDefinition `json:"buildDefinition"`
	RunDetails      runDetails      `json:"runDetails"`
}

type buildDefinition struct {
	BuildType            string            `json:"buildType"`
	ExternalParameters   map[string]string `json:"externalParameters"`
	ResolvedDependencies []dependency      `json:"resolvedDependencies"`
}

type dependency struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

type runDetails struct {
	Builder  builder  `json:"builder"`
	Metadata metadata `json:"metadata"`
}

type builder struct {
	ID string `json:"id"`
}

type metadata struct {
	InvocationID string `json:"invocationId,omitempty"`
}

// newProvenance returns the provenance of a release that was built from a commit. In a GitHub
// workflow, builder and invocation are those of the workflow.
func newProvenance(version, commit string, environment func(string) string) provenance {
	source := "git+https://" + repository + "@refs/tags/" + version
	var invocation string
	id := "https://" + repository + "/blob/main/docs/development.md#releases" // by hand
	if workflow := environment("GITHUB_WORKFLOW_REF"); workflow != "" {
		id = "https://github.com/" + workflow
		invocation = fmt.Sprintf("https://github.com/%s/actions/runs/%s/attempts/%s",
			environment("GITHUB_REPOSITORY"), environment("GITHUB_RUN_ID"), cmp.Or(environment("GITHUB_RUN_ATTEMPT"), "1"))
	}
	return provenance{
		BuildDefinition: buildDefinition{
			BuildType:          buildType,
			ExternalParameters: map[string]string{"source": source, "command": "make release VERSION=" + version},
			ResolvedDependencies: []dependency{
				{URI: source, Digest: map[string]string{"gitCommit": commit}},
				{URI: "pkg:generic/go@" + strings.TrimPrefix(runtime.Version(), "go")},
			},
		},
		RunDetails: runDetails{Builder: builder{ID: id}, Metadata: metadata{InvocationID: invocation}},
	}
}

// writeProvenance writes the provenance of the commit that is checked out, and returns its file.
func (p publisher) writeProvenance(ctx context.Context, dir string) (string, error) {
	commit, err := exec.CommandContext(ctx, "git", "rev-parse", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("reading the commit from git: %w", err)
	}
	content, err := json.Marshal(newProvenance(p.version, strings.TrimSpace(string(commit)), os.Getenv))
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "provenance.json")
	return file, os.WriteFile(file, content, 0o600)
}
