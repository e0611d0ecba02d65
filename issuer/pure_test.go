package issuer

import (
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/keyferry/keyferry/providers"
)

func TestBackoff(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 1000: 10 * time.Second} {
		if got := backoff(failures); got != want {
			t.Errorf("after %d failures %v, want %v", failures, got, want)
		}
	}
}

func TestCredentialID(t *testing.T) {
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("DER")})
	for name, test := range map[string]struct {
		credential providers.Credential
		want       string
	}{
		"jti":              {providers.Credential{Token: jwt(`{"jti":"0d6f2c1e-1"}`)}, "JTI=0d6f2c1e-1"},
		"no jti":           {providers.Credential{Token: jwt(`{}`)}, ""},
		"jti for a log":    {providers.Credential{Token: jwt(`{"jti":"a\nlevel=error"}`)}, ""},
		"long jti":         {providers.Credential{Token: jwt(`{"jti":"` + strings.Repeat("a", 129) + `"}`)}, ""},
		"jti is a number":  {providers.Credential{Token: jwt(`{"jti":1}`)}, ""},
		"not base64":       {providers.Credential{Token: "a.*.c"}, ""},
		"opaque":           {providers.Credential{Token: "secret"}, ""},
		"certificate":      {providers.Credential{ClientCertificate: certificate}, "X509SHA256=bffd28c8eeb10a5e50cf17b58f477ea1803895ae69744e6eb53cbcc3bf427adb"},
		"neither of these": {providers.Credential{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := credentialID(test.credential); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
