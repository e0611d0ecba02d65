package endpoint_test

import (
	"strings"
	"testing"

	"github.com/keyferry/keyferry/endpoint"
)

// FuzzParse checks that each address is rejected or normalized, and that a normalized address hides
// nothing.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"https://203.0.113.7:6443", "https://[2001:DB8::7]", "api.example.com", "https://a/k8s/clusters/c-1/", "https://a/../b%2f..", "https://u:p@a", "https://a\r\nX: y",
		"https://a?b#c", "https://0x7f.1", "https://[fe80::1%25eth0]", "https://a:0443", "https://a/\x00", "http:///", "//", "https://a/ü'\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, server string) {
		got, err := endpoint.Parse(server)
		if err != nil {
			if len(err.Error()) > len(server)*4+200 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		text := got.String()
		if got.Scheme != "https" || got.User != nil || got.RawQuery != "" || got.Fragment != "" || got.Port() == "" || got.Hostname() == "" {
			t.Errorf("%q is %q", server, text)
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' }) {
			t.Errorf("%q is %q", server, text)
		}
		if again, err := endpoint.Parse(text); err != nil || again.String() != text {
			t.Errorf("%q is %q, which is %v, %v", server, text, again, err)
		}
	})
}
