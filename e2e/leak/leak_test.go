package leak

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

const (
	password = `pl&nted "in" a/secret`
	token    = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ3aG9ldmVyIn0.c2lnbmF0dXJlLW9mLWEtdG9rZW4"
	pemKey   = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\nAbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGhIjKl\n-----END PRIVATE KEY-----\n"
	cert     = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUAbCdEfGh\nIjKlMnOpQrStUvWxYz0123456789AbCd\n-----END CERTIFICATE-----\n"
)

func TestFind(t *testing.T) {
	t.Parallel()
	kubeconfig := "users: [{name: a, user: {token: " + token + ", client-key-data: " + base64.StdEncoding.EncodeToString([]byte(pemKey)) + "}}]"
	quoted, err := json.Marshal(map[string]string{"error": "login with " + password + " failed"})
	if err != nil {
		t.Fatal(err)
	}
	signature := token[strings.LastIndexByte(token, '.')+1:]
	for name, test := range map[string]struct{ value, text string }{
		"as it is":                {password, "the password is " + password + "."},
		"in JSON":                 {password, string(quoted)},
		"in a query":              {password, "GET /?password=" + url.QueryEscape(password)},
		"in a path":               {password, "GET /" + url.PathEscape(password)},
		"alone in base64":         {password, "data: " + base64.StdEncoding.EncodeToString([]byte(password))},
		"in base64, one on":       {password, base64.StdEncoding.EncodeToString([]byte("a" + password + "z"))},
		"in base64, two on":       {password, base64.StdEncoding.EncodeToString([]byte("ab" + password + "yz"))},
		"a login":                 {password, "Basic " + base64.StdEncoding.EncodeToString([]byte("keyferry:"+password))},
		"a private key":           {pemKey, "key: " + pemKey},
		"a key on one line":       {pemKey, fmt.Sprintf("%q", pemKey)},
		"a key of a kubeconfig":   {kubeconfig, pemKey},
		"a kubeconfig":            {kubeconfig, kubeconfig},
		"half of a token":         {token, "…" + signature},
		"half of one in JSON":     {`{"bearerToken":"` + token + `"}`, "…" + signature},
		"a token of a kubeconfig": {kubeconfig, "…" + signature},
		"a token of nobody":       {password, "Bearer " + token},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s Secrets
			s.Add("planted", []byte(test.value))
			err := s.Find([]byte("something before " + test.text + " something behind"))
			if err == nil {
				t.Fatal("it was not found")
			}
			if strings.Contains(err.Error(), test.value) || strings.Contains(err.Error(), signature) {
				t.Errorf("the error shows it: %v", err)
			}
		})
	}
}

func TestFindNothing(t *testing.T) {
	t.Parallel()
	var s Secrets
	s.Add("certificate", []byte(cert))
	s.Add("user", []byte("keyferry"))
	s.Add("key", []byte(pemKey))
	s.Add("password", []byte(password))
	s.AddFrom("server", []byte("https://tenant-1.example.com"))
	for _, text := range []string{"", "short", cert, "keyferry", "https://tenant-1.example.com", "-----BEGIN PRIVATE KEY-----", password[:len(password)-2], token[:30]} {
		if err := s.Find([]byte(text)); err != nil {
			t.Errorf("in %q: %v", text, err)
		}
	}
	if s.Len() != 2 {
		t.Errorf("%d are known, want key and password", s.Len())
	}
}
