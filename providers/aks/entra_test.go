package aks_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyferry/keyferry/internal/internet"
)

const (
	tenant = "11111111-2222-3333-4444-555555555555"
	client = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"

	discovery = "GET /" + tenant + "/v2.0/.well-known/openid-configuration"
	token     = "POST /" + tenant + "/oauth2/v2.0/token"

	// What must be in no message: what the provider is given, and what it is answered.
	planted = "planted-"
	secret  = "planted-secret~_.8Q"
	subject = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwbGFudGVkIn0.planted-subject"
	issued  = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJpc3N1ZWQifQ.planted-issued"
)

// pair is a certificate and its key, in PEM.
type pair struct {
	der      []byte
	public   crypto.PublicKey
	crt, key []byte
}

// Made once each, since it takes a while.
var (
	ours   = sync.OnceValue(func() pair { return newPair(rsa.GenerateKey(rand.Reader, 2048)) })
	others = sync.OnceValue(func() pair { return newPair(rsa.GenerateKey(rand.Reader, 2048)) })
	curved = sync.OnceValue(func() pair { return newPair(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
)

func newPair(key crypto.Signer, err error) pair {
	must(err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "keyferry"}, NotAfter: time.Now().Add(time.Hour),
	}, &x509.Certificate{}, key.Public(), key)
	must(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	return pair{
		der: der, public: key.Public(),
		crt: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

var outside *internet.Internet

func TestMain(m *testing.M) {
	var err error
	outside, err = internet.Connect()
	must(err)
	code := m.Run()
	outside.Close()
	os.Exit(code)
}

// entra is a tenant with one application: each request that is not exactly what is documented is a
// failure of the test.
type entra struct {
	t     *testing.T
	host  string
	away  func()       // has it answer no more
	asked atomic.Int32 // for tokens
	// broken, if set, answers what is asked by that method and path.
	mu     sync.Mutex
	broken map[string]http.HandlerFunc
	// life is what expires_in is.
	life string
}

func newEntra(t *testing.T) *entra { return newEntraAt(t, "login.microsoftonline.com") }

func newEntraAt(t *testing.T, host string) *entra {
	e := &entra{t: t, host: host, broken: map[string]http.HandlerFunc{}, life: "3599"}
	name, _, _ := strings.Cut(host, ":")
	e.away = outside.Serve(t, name, e)
	return e
}

func (e *entra) breaks(target string, how http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken[target] = how
}

func (e *entra) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body) // a server that has not read all does not notice that a client has gone
	if err != nil {
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	if err := req.ParseForm(); err != nil {
		e.t.Error(err)
	}
	target := req.Method + " " + req.URL.Path
	e.mu.Lock()
	broken := e.broken[target]
	e.mu.Unlock()
	switch {
	case req.Host != e.host:
		e.t.Errorf("%s was asked %s", req.Host, target)
	case broken != nil:
		broken(w, req)
	case target == discovery:
		base := "https://" + e.host + "/" + tenant
		says(200, fmt.Sprintf(`{"issuer":"%s/v2.0","authorization_endpoint":"%s/oauth2/v2.0/authorize","token_endpoint":"%s/oauth2/v2.0/token"}`, base, base, base))(w, req)
	case strings.HasSuffix(target, "/.well-known/openid-configuration"):
		fails(400, "invalid_tenant", 90002, "Tenant 'x' not found.")(w, req)
	case target == token:
		e.asked.Add(1)
		e.token(w, req)
	default:
		e.t.Errorf("was asked %s", target)
	}
}

// token is the client credentials grant
// (https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow).
func (e *entra) token(w http.ResponseWriter, req *http.Request) {
	form := req.PostForm
	if form.Get("grant_type") != "client_credentials" || !strings.HasPrefix(form.Get("scope")+" ", "6dae42f8-4368-4678-94ff-3960e28e3630/.default ") {
		e.t.Errorf("was asked for %q with %q", form.Get("scope"), form.Get("grant_type"))
	}
	assertion := form.Get("client_assertion")
	if assertion != "" && form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		e.t.Errorf("the assertion is a %q", form.Get("client_assertion_type"))
	}
	switch rest, isSubject := strings.CutPrefix(assertion, subject); {
	case form.Get("client_id") != client:
		fails(400, "unauthorized_client", 700016, "Application with identifier '"+form.Get("client_id")+"' was not found in the directory 'Contoso'.")(w, req)
	case assertion == "" && form.Get("client_secret") != secret:
		fails(401, "invalid_client", 7000215, "Invalid client secret provided. You said "+form.Get("client_secret")+".")(w, req)
	case isSubject: // each assertion has a token of its own
		e.grant(w, req, rest)
	case assertion != "" && !e.verify(assertion):
		fails(401, "invalid_client", 700027, "Client assertion failed signature validation: "+assertion)(w, req)
	default:
		e.grant(w, req, "")
	}
}

func (e *entra) grant(w http.ResponseWriter, req *http.Request, of string) {
	says(200, `{"token_type":"Bearer","expires_in":`+e.life+`,"ext_expires_in":3599,"access_token":"`+issued+of+`"}`)(w, req)
}

// verify checks an assertion that is signed with the certificate
// (https://learn.microsoft.com/entra/identity-platform/certificate-credentials).
func (e *entra) verify(assertion string) bool {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return false
	}
	var header struct {
		Alg string   `json:"alg"`
		X5t string   `json:"x5t#S256"`
		X5c []string `json:"x5c"`
	}
	var claims struct {
		Aud, Iss, Sub, Jti string
		Exp, Nbf           int64
	}
	decode(e.t, parts[0], &header)
	decode(e.t, parts[1], &claims)
	thumbprint := sha256.Sum256(ours().der)
	if header.X5t != base64.StdEncoding.EncodeToString(thumbprint[:]) {
		return false
	}
	now := time.Now().Unix()
	if header.Alg != "PS256" || len(header.X5c) != 1 || header.X5c[0] != base64.StdEncoding.EncodeToString(ours().der) ||
		claims.Aud != "https://"+e.host+"/"+tenant+"/oauth2/v2.0/token" || claims.Iss != client || claims.Sub != client || claims.Jti == "" ||
		claims.Nbf > now || claims.Exp <= now {
		e.t.Errorf("the assertion says %+v %+v", header, claims)
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	return err == nil && rsa.VerifyPSS(ours().public.(*rsa.PublicKey), crypto.SHA256, digest[:], signature, nil) == nil
}

// fails answers as Entra does, with what differs each time.
func fails(status int, code string, number int, description string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		trace := fmt.Sprint(time.Now().UnixNano())
		text, err := json.Marshal(map[string]any{
			"error":             code,
			"error_description": fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: 2026-03-01 12:00:00Z", number, description, trace, trace),
			"error_codes":       []int{number},
			"trace_id":          trace,
		})
		must(err)
		says(status, string(text), header...)(w, req)
	}
}

func says(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
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
