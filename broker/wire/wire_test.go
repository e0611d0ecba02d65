package wire

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestReleasedForm: the sidecars of running Pods are from the previous release, or after a rollback
// from the next one. New fields may be added to the protocol, but released fields must not change
// or be removed. Never change the files of this test.
func TestReleasedForm(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d files (%v)", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			released, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var read ExecCredential
			decoder := json.NewDecoder(bytes.NewReader(released))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&read); err != nil {
				t.Fatal(err)
			}
			written, err := json.MarshalIndent(read, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if got := string(written) + "\n"; got != string(released) {
				t.Errorf("what was released as\n%s\nis now\n%s", released, got)
			}
		})
	}
}

// TestReleasedRequest tests the same for the requests of sidecars.
func TestReleasedRequest(t *testing.T) {
	t.Parallel()
	for _, form := range []string{`{}`, `{"subjectToken":"a token"}`} {
		var read Request
		decoder := json.NewDecoder(bytes.NewReader([]byte(form)))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&read); err != nil {
			t.Fatal(err)
		}
		if written, err := json.Marshal(read); err != nil || string(written) != form {
			t.Errorf("what was %s is now %s (%v)", form, written, err)
		}
	}
	for got, want := range map[string]string{
		TargetClusterPath("fleet", "tenant-1"):  "/v1/namespaces/fleet/targetclusters/tenant-1/credential",
		ClusterProfilePath("fleet", "tenant-1"): "/v1/namespaces/fleet/clusterprofiles/tenant-1/credential",
	} {
		if got != want {
			t.Errorf("the path %s is now %s", want, got)
		}
	}
}
