package cli

import (
	"strings"
	"testing"
)

// TestVersionsText: a component of another version is in sight.
func TestVersionsText(t *testing.T) {
	v := versions{Client: "v1.1.0", Namespace: "keyferry-system", Components: []component{{Name: "keyferry-broker", Version: "v1.0.0", Ready: 1, Replicas: 2}}}
	var text strings.Builder
	if err := v.writeText(&text); err != nil {
		t.Fatal(err)
	}
	const want = "COMPONENT         VERSION   PODS\nclient            v1.1.0    -\nkeyferry-broker   v1.0.0    1/2\n"
	if text.String() != want {
		t.Errorf("got\n%swant\n%s", text.String(), want)
	}
}
