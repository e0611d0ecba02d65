// Package leak finds secrets where none should be.
package leak

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"k8s.io/client-go/tools/clientcmd"
)

// shortest is the length from which on a value is taken for a secret, and not for a name.
const shortest = 12

// jwt matches tokens of all issuers.
var jwt = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}`)

// Secrets are known secrets. The zero value knows none, and finds tokens all the same. It may be
// used by several goroutines.
type Secrets struct {
	mu sync.RWMutex
	// forms has what each secret may look like, by its beginning.
	forms map[[shortest]byte][]form
	count int
}

// form is one look of a secret.
type form struct{ secret, text string }

// Add makes a value known: a password, a token, a private key in PEM, or a kubeconfig or JSON that
// holds some. Certificates are no secrets, and what is shorter than 12 bytes is none either. The
// name tells readers of a finding what it is.
func (s *Secrets) Add(name string, value []byte) {
	secrets, all := secretsIn(value)
	if !all {
		secrets = []string{string(value)}
	}
	s.add(name, secrets)
}

// AddFrom makes known what a value holds of tokens and private keys, where it may be something else
// as a whole.
func (s *Secrets) AddFrom(name string, value []byte) {
	secrets, _ := secretsIn(value)
	s.add(name, secrets)
}

func (s *Secrets) add(name string, secrets []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forms == nil {
		s.forms = map[[shortest]byte][]form{}
	}
	for _, secret := range secrets {
		if len(secret) < shortest {
			continue
		}
		s.count++
		for _, text := range forms(secret) {
			start := [shortest]byte([]byte(text))
			if f := (form{name, text}); !slices.Contains(s.forms[start], f) {
				s.forms[start] = append(s.forms[start], f)
			}
		}
	}
}

// Len is how many were added.
func (s *Secrets) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.count
}

// Find is an error that says which secret the data holds first, and where, but not what it is.
func (s *Secrets) Find(data []byte) error {
	if at := jwt.FindIndex(data); at != nil {
		return fmt.Errorf("a token (the first 12 digits of its SHA-256 are %s) at byte %d", hash(data[at[0]:at[1]]), at[0])
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range max(0, len(data)-shortest+1) {
		for _, f := range s.forms[[shortest]byte(data[i:i+shortest])] {
			if bytes.HasPrefix(data[i:], []byte(f.text)) {
				return fmt.Errorf("%s at byte %d", f.secret, i)
			}
		}
	}
	return nil
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6])
}

// secretsIn returns the tokens and private keys that a value holds, and whether nothing else of it
// can be secret. Of a token it is its signature: the beginning is alike for many.
func secretsIn(value []byte) (found []string, all bool) {
	for _, token := range jwt.FindAllString(string(value), -1) {
		found = append(found, token[strings.LastIndexByte(token, '.')+1:])
	}
	if cfg, err := clientcmd.Load(value); err == nil && len(cfg.AuthInfos) > 0 {
		for _, user := range cfg.AuthInfos {
			found = append(found, user.Password)
			found = append(found, keyLines(user.ClientKeyData)...)
		}
		return found, true
	}
	if bytes.Contains(value, []byte("-----BEGIN ")) {
		return append(found, keyLines(value)...), true
	}
	return found, len(found) > 0
}

var key = regexp.MustCompile(`-{5}BEGIN [A-Z ]*PRIVATE KEY-{5}\s+\S+\s+(\S+)`)

// keyLines returns the second lines of private keys: first ones are alike.
func keyLines(value []byte) (lines []string) {
	for _, match := range key.FindAllSubmatch(value, -1) {
		lines = append(lines, string(match[1]))
	}
	return lines
}

// forms returns how a secret looks as it is, in JSON, in a URL, and within something that is in
// base64.
func forms(secret string) []string {
	all := []string{secret, url.QueryEscape(secret), url.PathEscape(secret)}
	if quoted, err := json.Marshal(secret); err == nil {
		all = append(all, strings.Trim(string(quoted), `"`))
	}
	for before := range 3 {
		// Of the first and the last characters, bits are of the secret's neighbours.
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + secret))
		all = append(all, encoded[(before*8+5)/6:len(encoded)-2])
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(text string) bool { return len(text) < shortest })
}
