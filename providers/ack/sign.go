package ack

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

const algorithm = "ACS3-HMAC-SHA256"

// sign adds the signature of Alibaba Cloud's API, version 3, to a request without a body
// (https://www.alibabacloud.com/help/en/sdk/product-overview/v3-request-structure-and-signature).
// The query must be sorted and percent-encoded.
//
// These lines replace the vendor's library, which has an HTTP client of its own: a request with it
// would not be subject to the policy for egress.
func sign(request *http.Request, id string, secret []byte, now time.Time, nonce string) {
	emptyHash := hexHash("")
	request.Header.Set("X-Acs-Content-Sha256", emptyHash)
	request.Header.Set("X-Acs-Date", now.UTC().Format("2006-01-02T15:04:05Z"))
	request.Header.Set("X-Acs-Signature-Nonce", nonce)

	names, headers := []string{"host"}, map[string]string{"host": request.URL.Host}
	for name, values := range request.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-acs-") {
			names, headers[name] = append(names, name), values[0]
		}
	}
	slices.Sort(names)
	var canonical strings.Builder
	canonical.WriteString(request.Method + "\n" + request.URL.EscapedPath() + "\n" + request.URL.RawQuery + "\n")
	for _, name := range names {
		canonical.WriteString(name + ":" + headers[name] + "\n")
	}
	signed := strings.Join(names, ";")
	canonical.WriteString("\n" + signed + "\n" + emptyHash)

	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(algorithm + "\n" + hexHash(canonical.String())))
	request.Header.Set("Authorization",
		algorithm+" Credential="+id+",SignedHeaders="+signed+",Signature="+hex.EncodeToString(mac.Sum(nil)))
}

func hexHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// nonce returns a value that no other request has.
func nonce() string { return rand.Text() }
