package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// aspects are the columns of the table of compatibility, each with the end-to-end tests that show
// it.
var aspects = []struct {
	name  string
	tests []string
}{
	{"direct delivery", []string{"TestRenewalGoesUnnoticed", "TestInitContainerAndJob"}},
	{"the endpoint changes", []string{"TestEndpointMove"}},
	{"delivery by proxy", []string{"TestProxy", "TestClientCertificate"}},
	{"federation", []string{"TestFederation"}},
	{"plugin in the Pod", []string{"TestClusterProfile"}},
	{"plugin in the broker", []string{"TestPluginInBroker"}},
	{"CredentialRequests", []string{"TestSecretsAreRenewed", "TestKubeconfigInPod", "TestTokenFileInPod"}},
	{"client certificates", []string{"TestClientCertificateIssue"}},
	{"several clusters", []string{"TestSeveralClusters"}},
	{"guard", []string{"TestGuard"}},
}

// seen is docs/compatibility.json, as e2e/cmd/versions writes it.
type seen struct {
	Versions []string `json:"versions"`
	Runs     []struct {
		Management string `json:"management"`
		Target     string `json:"target"`
		Date       string `json:"date"`
		Commit     string `json:"commit"`
		Tests      map[string]struct {
			Result string `json:"result"`
			Note   string `json:"note"`
		} `json:"tests"`
	} `json:"runs"`
}

const (
	compatibilityBegin = "<!-- generated: compatibility, by `make generate` from compatibility.json, which `make e2e-versions` writes -->\n"
	compatibilityEnd   = "<!-- end -->"
)

// compatibility returns the page with the table of what the end-to-end tests have seen.
func compatibility(results, page string) (string, error) {
	var all seen
	decoder := json.NewDecoder(bytes.NewReader([]byte(results)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&all); err != nil {
		return "", fmt.Errorf("reading the results: %w", err)
	}
	before, rest, found := strings.Cut(page, compatibilityBegin)
	_, after, closed := strings.Cut(rest, compatibilityEnd)
	if !found || !closed {
		return "", errors.New("the page has no section for the table")
	}
	return before + compatibilityBegin + "\n" + all.table() + "\n" + compatibilityEnd + after, nil
}

func (s *seen) table() string {
	head, line := []string{"Kubernetes", "seen"}, []string{"---", "---"}
	for _, aspect := range aspects {
		head, line = append(head, aspect.name), append(line, "---")
	}
	var b strings.Builder
	b.WriteString(row(head...) + row(line...))
	versions := slices.Clone(s.Versions)
	for _, run := range s.Runs {
		if v := pair(run.Management, run.Target); !slices.Contains(versions, v) {
			versions = append(versions, v)
		}
	}
	for _, v := range versions {
		b.WriteString(row(s.cells(v)...))
	}
	return b.String()
}

// pair names the versions of two clusters as an argument of e2e/cmd/versions.
func pair(management, target string) string {
	if management == target {
		return management
	}
	return management + "/" + target
}

func (s *seen) cells(versions string) []string {
	name := strings.ReplaceAll(versions, "v", "")
	if management, target, skewed := strings.Cut(name, "/"); skewed {
		name = management + ", targets with " + target
	}
	for _, run := range s.Runs {
		if pair(run.Management, run.Target) != versions {
			continue
		}
		cells := []string{name, run.Date}
		for _, aspect := range aspects {
			cell := "yes"
			for _, test := range aspect.tests {
				result, ran := run.Tests[test]
				switch {
				case !ran || result.Result == "skip":
					cell = "not seen"
				case result.Result != "pass":
					cell = "**failed**"
				case result.Note != "" && cell == "yes":
					cell = result.Note
				}
			}
			cells = append(cells, cell)
		}
		return cells
	}
	return append([]string{name, "not yet"}, slices.Repeat([]string{""}, len(aspects))...)
}
