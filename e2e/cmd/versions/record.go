package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

// notePrefix begins the line by which a test records what users get on this version of Kubernetes.
const notePrefix = "compatibility: "

// record is docs/compatibility.json.
type record struct {
	// Versions are those that the table has a row for, whether seen or not.
	Versions []string `json:"versions"`
	// Runs holds one run at most for each pair of versions.
	Runs []runRecord `json:"runs"`
}

type runRecord struct {
	Management string `json:"management"`
	Target     string `json:"target"`
	Date       string `json:"date"`
	Commit     string `json:"commit"`
	// Tests are by name.
	Tests map[string]testRecord `json:"tests"`
}

type testRecord struct {
	// Result is pass, fail or skip.
	Result string `json:"result"`
	// Note is what users get on this version, if that differs between versions.
	Note string `json:"note,omitempty"`
}

func readRecord(file string) (r record, err error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return r, fmt.Errorf("reading %s: %w", file, err)
	}
	return r, nil
}

// put adds a run in place of the last run on the same versions.
func (r *record) put(run runRecord) {
	same := func(other runRecord) bool { return other.Management == run.Management && other.Target == run.Target }
	if i := slices.IndexFunc(r.Runs, same); i >= 0 {
		r.Runs[i] = run
	} else {
		r.Runs = append(r.Runs, run)
	}
}

// write writes the record, whole or not at all.
func (r *record) write(file string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", append(content, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
