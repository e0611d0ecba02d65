package gke_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	robot    = "robot@project.iam.gserviceaccount.com"
	deployer = "deployer@project.iam.gserviceaccount.com"
	pool     = "projects/123456789/locations/global/workloadIdentityPools/fleet/providers/management"
	both     = "https://www.googleapis.com/auth/cloud-platform https://www.googleapis.com/auth/userinfo.email"

	metadataHost = "169.254.169.254"

	// What must be in no message: what the provider is given, and what it is answered.
	planted = "planted-"
	subject = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwbGFudGVkIn0.planted-subject"
	own     = "ya29.planted-own-token"
	issued  = "ya29.planted-issued-token"
)

// Two keys, made once each, since it takes a while.
var rsaKey, otherKey = sync.OnceValue(newKey), sync.OnceValue(newKey)

func newKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

func inPEM(key *rsa.PrivateKey) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// google is all of Google that is asked: each token request that is not exactly what it documents
// is a failure of the test.
type google struct {
	t      *testing.T
	server *httptest.Server
	plain  *httptest.Server // the metadata server
	asked  atomic.Int32
	// broken, if set, answers all that is asked of a host; by its name.
	mu     sync.Mutex
	broken map[string]http.HandlerFunc
}

func newGoogle(t *testing.T) *google {
	g := &google{t: t, broken: map[string]http.HandlerFunc{}}
	g.server = httptest.NewUnstartedServer(g)
	g.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	g.server.StartTLS()
	t.Cleanup(g.server.Close)
	g.plain = httptest.NewServer(g)
	t.Cleanup(g.plain.Close)
	return g
}

func (g *google) breaks(host string, how http.HandlerFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.broken[host] = how
}

func (g *google) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	g.asked.Add(1)
	g.mu.Lock()
	broken := g.broken[req.Host]
	g.mu.Unlock()
	body, err := io.ReadAll(req.Body) // a server that has not read all does not notice that a client has gone
	if err != nil {
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	if err := req.ParseForm(); err != nil {
		g.t.Error(err)
	}
	switch target := req.Method + " " + req.Host + req.RequestURI; {
	case broken != nil:
		broken(w, req)
	case req.Host == metadataHost:
		g.metadata(w, req)
	case target == "POST oauth2.googleapis.com/token":
		g.token(w, req)
	case target == "POST sts.googleapis.com/v1/token":
		g.exchange(w, req)
	case target == "POST iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"+deployer+":generateAccessToken":
		g.impersonate(w, req)
	case req.Host == "iamcredentials.googleapis.com":
		says(404, `{"error":{"code":404,"message":"Not found; Gaia id not found for email other@project.iam.gserviceaccount.com","status":"NOT_FOUND"}}`)(w, req)
	default:
		g.t.Errorf("was asked %s", target)
	}
}

// form checks the fields that are not secret.
func (g *google) form(req *http.Request, want map[string]string) {
	for name, value := range want {
		if got := req.PostForm.Get(name); got != value {
			g.t.Errorf("%s at %s is %q, want %q", name, req.Host, got, value)
		}
	}
}

// token is the JWT bearer grant (RFC 7523).
func (g *google) token(w http.ResponseWriter, req *http.Request) {
	g.form(req, map[string]string{"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"})
	parts := strings.Split(req.PostForm.Get("assertion"), ".")
	if len(parts) != 3 {
		g.t.Fatal("the assertion is no JWT")
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || rsa.VerifyPKCS1v15(&rsaKey().PublicKey, crypto.SHA256, digest[:], signature) != nil {
		says(400, `{"error":"invalid_grant","error_description":"Invalid JWT Signature."}`)(w, req)
		return
	}
	var header struct{ Alg, Kid string }
	var claims struct {
		Iss, Scope, Aud string
		Iat, Exp        int64
	}
	decode(g.t, parts[0], &header)
	decode(g.t, parts[1], &claims)
	if header.Alg != "RS256" || header.Kid != "key-1" || claims.Scope != both || claims.Aud != "https://oauth2.googleapis.com/token" ||
		claims.Exp-claims.Iat != 3600 || claims.Exp < time.Now().Unix() {
		g.t.Errorf("the assertion says %+v %+v", header, claims)
	}
	if claims.Iss != robot {
		says(400, `{"error":"invalid_grant","error_description":"Invalid grant: account not found"}`)(w, req)
		return
	}
	says(200, `{"access_token":"`+own+`","expires_in":3599,"token_type":"Bearer"}`)(w, req)
}

// exchange is the token exchange (RFC 8693).
func (g *google) exchange(w http.ResponseWriter, req *http.Request) {
	g.form(req, map[string]string{
		"grant_type":           "urn:ietf:params:oauth:grant-type:token-exchange",
		"requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
		"subject_token_type":   "urn:ietf:params:oauth:token-type:jwt",
		"scope":                both,
	})
	switch {
	case req.PostForm.Get("audience") != "//iam.googleapis.com/"+pool:
		says(400, `{"error":"invalid_target","error_description":"The target service indicated by the \"audience\" parameters is invalid."}`)(w, req)
	case !strings.HasPrefix(req.PostForm.Get("subject_token"), subject):
		says(400, `{"error":"invalid_grant","error_description":"The audience in ID Token [https://other] does not match the expected audience."}`)(w, req)
	default: // each token has one of its own
		says(200, `{"access_token":"`+own+strings.TrimPrefix(req.PostForm.Get("subject_token"), subject)+
			`","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3599}`)(w, req)
	}
}

func (g *google) impersonate(w http.ResponseWriter, req *http.Request) {
	var body struct {
		Scope    []string
		Lifetime string
	}
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil || strings.Join(body.Scope, " ") != both || body.Lifetime != "3600s" {
		g.t.Errorf("was asked for %+v (%v)", body, err)
	}
	if req.Header.Get("Authorization") != "Bearer "+own {
		says(403, `{"error":{"code":403,"message":"Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).","status":"PERMISSION_DENIED"}}`)(w, req)
		return
	}
	says(200, fmt.Sprintf(`{"accessToken":%q,"expireTime":%q}`, issued, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))(w, req)
}

// metadata is the metadata server of a machine with one service account.
func (g *google) metadata(w http.ResponseWriter, req *http.Request) {
	if req.Header.Get("Metadata-Flavor") != "Google" || req.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/token" ||
		req.FormValue("scopes") != strings.ReplaceAll(both, " ", ",") {
		g.t.Errorf("was asked %s with %v", req.RequestURI, req.Header)
	}
	says(200, `{"access_token":"`+own+`","expires_in":1799,"token_type":"Bearer"}`)(w, req)
}

func says(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func decode(t *testing.T, part string, into any) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}
