// Package systemroots reads the CA certificates of the system as a PEM bundle. crypto/x509 uses
// them, but does not return them.
package systemroots

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Read returns a PEM bundle that contains only certificates, each once. It reads the same files as
// crypto/x509 on Linux: the file SSL_CERT_FILE, or else the first of the distributions' files that
// exists; and all files in the directories of SSL_CERT_DIR, or else in the distributions'
// directories. Read returns an error if the bundle is empty.
func Read() ([]byte, error) {
	files := []string{
		"/etc/ssl/certs/ca-certificates.crt", // Debian, Alpine, and the images of Keyferry
		"/etc/pki/tls/certs/ca-bundle.crt",   // Fedora
		"/etc/ssl/ca-bundle.pem",             // SUSE
		"/etc/pki/tls/cacert.pem",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL
		"/etc/ssl/cert.pem",                                 // macOS, Alpine
	}
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		files = []string{file}
	}
	directories := []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
	if list := os.Getenv("SSL_CERT_DIR"); list != "" {
		directories = filepath.SplitList(list)
	}
	return read(files, directories)
}

// read ignores files that it cannot read, like crypto/x509.
func read(files, directories []string) ([]byte, error) {
	var text []byte
	for _, file := range files {
		if content, err := os.ReadFile(file); err == nil { // #nosec G304 G703 -- the machine's own, or what its operator names
			text = append(text, content...)
			break
		}
	}
	for _, directory := range directories {
		entries, _ := os.ReadDir(directory)
		for _, entry := range entries {
			if content, err := os.ReadFile(filepath.Join(directory, entry.Name())); err == nil { // #nosec G304 G703 -- as above
				text = append(append(text, '\n'), content...)
			}
		}
	}
	bundle := certificates(text)
	if len(bundle) == 0 {
		return nil, fmt.Errorf("there are no CA certificates in the files %s or the directories %s: set SSL_CERT_FILE to a file with CA certificates",
			strings.Join(files, ", "), strings.Join(directories, ", "))
	}
	return bundle, nil
}

// certificates returns each certificate of a PEM text once. It skips certificates that cannot be
// parsed, because some clients reject a bundle with one.
func certificates(text []byte) []byte {
	var bundle bytes.Buffer
	seen := map[string]bool{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return bundle.Bytes()
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) > 0 || seen[string(block.Bytes)] {
			continue
		}
		seen[string(block.Bytes)] = true
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			_ = pem.Encode(&bundle, block) // a Buffer returns no errors
		}
	}
}
