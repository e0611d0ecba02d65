package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/injector"
)

// Whatever comes: it is refused, or what is printed stays as it is when it is injected again.
func FuzzInject(f *testing.F) {
	files, err := filepath.Glob("testdata/inject/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && !strings.Contains(file, "golden") {
			f.Add(text)
		}
	}
	find, err := targetsOfFile("testdata/tenant-1.yaml", "default", operator{})
	if err != nil {
		f.Fatal(err)
	}
	inject := func(t *testing.T, text []byte) ([]byte, error) {
		var out bytes.Buffer
		i := injection{
			streams:   genericiooptions.IOStreams{In: bytes.NewReader(text), Out: &out, ErrOut: &bytes.Buffer{}},
			config:    injector.Config{Image: "refresher", Resources: injector.DefaultResources(), BrokerURL: "https://broker", BrokerAddress: "10.0.0.1"},
			targets:   find,
			namespace: "default",
		}
		err := i.run(t.Context(), []string{"-"})
		return out.Bytes(), err
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var joined []byte
		for _, doc := range split(text) {
			joined = append(joined, doc.text...)
		}
		if len(bytes.TrimSpace(text)) > 0 && !bytes.Equal(joined, text) {
			t.Fatalf("split loses something: %q", joined)
		}
		once, err := inject(t, text)
		if err != nil {
			return
		}
		twice, err := inject(t, once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("once: %s\ntwice: %s, %v", once, twice, err)
		}
	})
}
