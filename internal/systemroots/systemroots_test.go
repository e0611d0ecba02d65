package systemroots

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/endpoint/endpointtest"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRead(t *testing.T) {
	malformed := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("nothing")}))
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("planted")}))
	const root = endpointtest.CertificateAuthority
	none := filepath.Join(t.TempDir(), "none")
	for name, test := range map[string]struct {
		files, directories []string
		fails              bool
	}{
		"the first file that exists": {files: []string{none, write(t, root), write(t, "nothing")}},
		"a directory":                {files: []string{none}, directories: []string{none, filepath.Dir(write(t, root))}},
		"file and directory":         {files: []string{write(t, root)}, directories: []string{filepath.Dir(write(t, root))}},
		"each once, and no comment":  {files: []string{write(t, "# one\n"+root+"# two\n"+root)}},
		"what clients cannot parse":  {files: []string{write(t, malformed+root)}},
		"no key":                     {files: []string{write(t, key+root)}},
		"no line end":                {files: []string{write(t, "nothing")}, directories: []string{filepath.Dir(write(t, strings.TrimSpace(root)))}},
		"nothing exists":             {files: []string{none}, directories: []string{none}, fails: true},
		"nothing in the file":        {files: []string{write(t, "nothing"), write(t, root)}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(test.files, test.directories)
			if test.fails {
				if err == nil || !strings.Contains(err.Error(), "SSL_CERT_FILE") {
					t.Errorf("got %v, want an error that names SSL_CERT_FILE", err)
				}
				return
			}
			if err != nil || string(got) != root {
				t.Errorf("got %s, %v, want %s", got, err, root)
			}
		})
	}
}

// TestReadEnvironment: the variables of crypto/x509 count.
func TestReadEnvironment(t *testing.T) {
	empty := t.TempDir()
	for name, test := range map[string]struct{ file, directory string }{
		"SSL_CERT_FILE": {write(t, endpointtest.CertificateAuthority), empty},
		"SSL_CERT_DIR":  {filepath.Join(empty, "none"), filepath.Dir(write(t, endpointtest.CertificateAuthority))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("SSL_CERT_FILE", test.file)
			t.Setenv("SSL_CERT_DIR", test.directory)
			if got, err := Read(); err != nil || string(got) != endpointtest.CertificateAuthority {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
}
