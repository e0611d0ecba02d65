// Package ststest is an AWS STS for tests: it checks each parameter and each signature of what it
// is asked over HTTP.
package ststest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Account is the one that all identities are of.
const Account = "123456789012"

// Server is an STS with the access keys and roles that it is told of. The fields may be changed
// before it is asked.
type Server struct {
	// Host is the only name that it answers to; empty means any.
	Host string
	// Keys are the access keys that exist, by their ID.
	Keys map[string]Key
	// Trust are the roles that exist, and who may assume them: the ARN of an identity, or a token of a
	// Pod.
	Trust map[string][]string
	// Fail, if set, is asked first, and answers if it returns true.
	Fail func(http.ResponseWriter, *http.Request) bool
	// Pad is how many bytes the session tokens have that it gives.
	Pad int
	// Now is the clock that sessions end by.
	Now func() time.Time

	t    *testing.T
	http *httptest.Server
	mu   sync.Mutex
	seen []url.Values
}

// Key is an access key.
type Key struct {
	Secret       string
	SessionToken string
	ARN          string
}

// New starts a Server.
func New(t *testing.T) *Server {
	s := &Server{t: t, Keys: map[string]Key{}, Trust: map[string][]string{}, Now: time.Now}
	s.http = httptest.NewServer(s)
	t.Cleanup(s.http.Close)
	return s
}

// Close stops the Server, as an outage does.
func (s *Server) Close() { s.http.Close() }

// Transport sends requests to the Server by way of next, whatever host they are for.
func (s *Server) Transport(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.URL.Scheme != "https" {
			s.t.Errorf("STS is asked over %s", req.URL.Scheme)
		}
		sent := req.Clone(req.Context())
		sent.Host = req.URL.Host
		sent.URL.Scheme, sent.URL.Host = "http", s.http.Listener.Addr().String()
		return next.RoundTrip(sent)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// Asked returns the parameters of each role that was assumed or not.
func (s *Server) Asked() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		s.t.Error(err)
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	if s.Fail != nil && s.Fail(w, req) {
		return
	}
	form, err := url.ParseQuery(string(body))
	switch {
	case err != nil:
		s.t.Errorf("malformed form: %v", err)
	case s.Host != "" && req.Host != s.Host:
		s.t.Errorf("%s was asked, want %s", req.Host, s.Host)
	case req.URL.Path != "/":
		s.t.Errorf("asked at %s", req.URL.Path)
	case req.Method == http.MethodGet:
		s.callerIdentity(w, req)
		return
	case req.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || form.Get("Version") != "2011-06-15":
		s.t.Errorf("a form of type %q for version %q", req.Header.Get("Content-Type"), form.Get("Version"))
	}
	s.mu.Lock()
	s.seen = append(s.seen, form)
	s.mu.Unlock()
	switch form.Get("Action") {
	case "AssumeRole":
		s.assumeRole(w, req, form, body)
	case "AssumeRoleWithWebIdentity":
		s.assumeRoleWithWebIdentity(w, req, form)
	default:
		Error(w, http.StatusBadRequest, "InvalidAction", "no such action")
	}
}

// callerIdentity is what a cluster asks with a token. It answers in JSON, as it is asked to.
func (s *Server) callerIdentity(w http.ResponseWriter, req *http.Request) {
	query := req.URL.Query()
	id, key, ok := s.key(query.Get("X-Amz-Credential"))
	if !ok || query.Get("X-Amz-Security-Token") != key.SessionToken {
		Error(w, http.StatusForbidden, "InvalidClientTokenId", "The security token included in the request is invalid.")
		return
	}
	again, err := http.NewRequestWithContext(req.Context(), http.MethodGet,
		"https://"+req.Host+"/?Action="+query.Get("Action")+"&Version="+query.Get("Version")+"&X-Amz-Expires="+query.Get("X-Amz-Expires"), http.NoBody) // #nosec G704 -- never sent
	if err != nil {
		s.t.Error(err)
		return
	}
	again.Header.Set("X-K8s-Aws-Id", req.Header.Get("X-K8s-Aws-Id"))
	date, _ := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	signed, _, err := v4.NewSigner().PresignHTTP(req.Context(), credentials(id, key), again, hash(nil), "sts", region(query.Get("X-Amz-Credential")), date)
	if err != nil {
		s.t.Error(err)
	}
	want, _ := url.Parse(signed)
	if want.Query().Get("X-Amz-Signature") != query.Get("X-Amz-Signature") {
		Error(w, http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
		return
	}
	result := map[string]any{"GetCallerIdentityResponse": map[string]any{"GetCallerIdentityResult": map[string]string{
		"Account": Account, "Arn": key.ARN, "UserId": "AROA" + id + ":" + key.ARN[strings.LastIndex(key.ARN, "/")+1:],
	}}}
	if err := json.NewEncoder(w).Encode(result); err != nil {
		s.t.Error(err)
	}
}

func (s *Server) assumeRole(w http.ResponseWriter, req *http.Request, form url.Values, body []byte) {
	s.only(form, "Action", "Version", "RoleArn", "RoleSessionName", "DurationSeconds")
	authorization := req.Header.Get("Authorization")
	_, credential, _ := strings.Cut(authorization, "Credential=")
	credential, _, _ = strings.Cut(credential, ",")
	id, key, ok := s.key(credential)
	if !ok || req.Header.Get("X-Amz-Security-Token") != key.SessionToken {
		Error(w, http.StatusForbidden, "InvalidClientTokenId", "The security token "+req.Header.Get("X-Amz-Security-Token")+" included in the request is invalid.")
		return
	}
	if s.sign(req, id, key, body) != authorization {
		Error(w, http.StatusForbidden, "SignatureDoesNotMatch", "The Canonical String should have been "+key.Secret+"\nx-amz-security-token:"+key.SessionToken)
		return
	}
	s.give(w, form, key.ARN, key.ARN)
}

// sign returns the Authorization header that a request of that key has.
func (s *Server) sign(req *http.Request, id string, key Key, body []byte) string {
	again, err := http.NewRequestWithContext(req.Context(), req.Method, "https://"+req.Host+"/", bytes.NewReader(body)) // #nosec G704 -- never sent
	if err != nil {
		s.t.Error(err)
		return ""
	}
	_, names, _ := strings.Cut(req.Header.Get("Authorization"), "SignedHeaders=")
	names, _, _ = strings.Cut(names, ",")
	for name := range strings.SplitSeq(names, ";") {
		if name != "host" && name != "content-length" {
			again.Header.Set(name, req.Header.Get(name))
		}
	}
	date, _ := time.Parse("20060102T150405Z", req.Header.Get("X-Amz-Date"))
	_, credential, _ := strings.Cut(req.Header.Get("Authorization"), "Credential=")
	if err := v4.NewSigner().SignHTTP(context.Background(), credentials(id, key), again, hash(body), "sts", region(credential), date); err != nil {
		s.t.Error(err)
	}
	return again.Header.Get("Authorization")
}

func (s *Server) assumeRoleWithWebIdentity(w http.ResponseWriter, req *http.Request, form url.Values) {
	s.only(form, "Action", "Version", "RoleArn", "RoleSessionName", "DurationSeconds", "WebIdentityToken")
	if req.Header.Get("Authorization") != "" {
		s.t.Error("an exchange of a token is signed")
	}
	s.give(w, form, form.Get("WebIdentityToken"), "the token")
}

// give answers with a key of the role, if who may assume it.
func (s *Server) give(w http.ResponseWriter, form url.Values, who, called string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	role := form.Get("RoleArn")
	trusted := false
	for _, one := range s.Trust[role] {
		trusted = trusted || one == who
	}
	if !trusted {
		Error(w, http.StatusForbidden, "AccessDenied", called+" is not authorized to perform: sts:"+form.Get("Action"))
		return
	}
	if form.Get("DurationSeconds") != "900" {
		s.t.Errorf("a session of %s s is asked for", form.Get("DurationSeconds"))
	}
	session := form.Get("RoleSessionName")
	id := fmt.Sprintf("ASIA%d", len(s.Keys))
	key := Key{
		Secret:       "secret-of-" + id,
		SessionToken: "session+token/of=" + id + strings.Repeat("x", s.Pad),
		ARN:          strings.Replace(strings.Replace(role, ":iam:", ":sts:", 1), ":role/", ":assumed-role/", 1) + "/" + session,
	}
	s.Keys[id] = key
	action := form.Get("Action")
	_, _ = fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials>`+
		`<AccessKeyId>%[2]s</AccessKeyId><SecretAccessKey>%[3]s</SecretAccessKey><SessionToken>%[4]s</SessionToken><Expiration>%[5]s</Expiration>`+
		`</Credentials></%[1]sResult></%[1]sResponse>`, action, id, key.Secret, key.SessionToken, s.Now().Add(15*time.Minute).UTC().Format(time.RFC3339))
}

func (s *Server) key(credential string) (string, Key, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, _, _ := strings.Cut(credential, "/")
	key, ok := s.Keys[id]
	return id, key, ok
}

// only reports parameters that are missing, or more than these.
func (s *Server) only(form url.Values, names ...string) {
	for _, name := range names {
		if form.Get(name) == "" {
			s.t.Errorf("no parameter %s", name)
		}
	}
	if len(form) != len(names) {
		s.t.Errorf("%d parameters, want %v", len(form), names)
	}
}

// Error answers as AWS does.
func Error(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, // #nosec G705 -- no browser reads it
		`<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>1</RequestId></ErrorResponse>`, code, message)
}

func credentials(id string, key Key) aws.Credentials {
	return aws.Credentials{AccessKeyID: id, SecretAccessKey: key.Secret, SessionToken: key.SessionToken}
}

// region of a credential scope, ID/DATE/REGION/sts/aws4_request.
func region(credential string) string {
	if parts := strings.Split(credential, "/"); len(parts) > 2 {
		return parts[2]
	}
	return ""
}

func hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}
