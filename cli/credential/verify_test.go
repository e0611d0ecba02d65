package credential_test

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/cli"
)

// targetOf returns the file of tenant1, with a target that answers.
func targetOf(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	t.Cleanup(s.Close)
	file := strings.Replace(tenant1(t), "https://203.0.113.7:6443", s.URL, 1)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	before, rest, _ := strings.Cut(file, "certificateAuthorityData: ")
	_, after, _ := strings.Cut(rest, "}")
	return before + "certificateAuthorityData: " + jsonOf(certificate) + "}" + after
}

// reviews answers SelfSubjectReviews, and repeats the credential wherever a malicious target could.
func reviews(code int, user string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodPost || req.URL.Path != "/apis/authentication.k8s.io/v1/selfsubjectreviews" || req.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", "/elsewhere?"+token)
		w.WriteHeader(code)
		answer := map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "status": map[string]any{"userInfo": map[string]any{"username": user}}}
		if code >= http.StatusMultipleChoices {
			answer = map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": http.StatusText(code), "code": code, "message": "not with " + token}
		}
		text, _ := json.Marshal(answer)
		_, _ = w.Write(text)
	}
}

// TestVerify: a credential that the target does not accept is not printed.
func TestVerify(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string // of standard error; a credential is printed if it begins with verified
	}{
		"accepted":       {reviews(http.StatusCreated, "system:serviceaccount:robots:robot"), `accepts the credential as user "system:serviceaccount:robots:robot"`},
		"strange name":   {reviews(http.StatusCreated, "a\x1b[2J\n"), `accepts the credential as user "a\x1b[2J\n"`},
		"anonymous":      {reviews(http.StatusCreated, "system:anonymous"), `it takes the client for "system:anonymous"`},
		"nobody":         {reviews(http.StatusCreated, ""), "no SelfSubjectReview"},
		"rejected":       {reviews(http.StatusUnauthorized, ""), "rejects the issued credential: 401 Unauthorized: have the target accept it"},
		"forbidden":      {reviews(http.StatusForbidden, ""), "answers 403: bind ClusterRole system:basic-user"},
		"old":            {reviews(http.StatusNotFound, ""), "answers 404: Kubernetes has SelfSubjectReviews since 1.28"},
		"broken":         {reviews(http.StatusInternalServerError, ""), "answers 500"},
		"a redirect":     {reviews(http.StatusTemporaryRedirect, ""), "answers 307"},
		"not Kubernetes": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>"+token) }, "no SelfSubjectReview"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := keyferry(t, targetOf(t, test.answer), "-f", "-", "-o", "token", "--verify")
			accepted := strings.HasPrefix(test.want, "accepts")
			if accepted && (code != 0 || stdout != token+"\n") || !accepted && (code != cli.ExitFailed || stdout != "") {
				t.Errorf("exit code %d, printed %q", code, stdout)
			}
			if !strings.Contains(stderr, test.want) || strings.Contains(stderr, token) {
				t.Errorf("standard error is %s", stderr)
			}
		})
	}
	t.Run("not on request", func(t *testing.T) {
		code, stdout, stderr := keyferry(t, targetOf(t, reviews(http.StatusUnauthorized, "")), "-f", "-", "-o", "token")
		if code != 0 || stdout != token+"\n" || stderr != "" {
			t.Errorf("exit code %d, printed %q, %s", code, stdout, stderr)
		}
	})
}

// The help does not suggest that a credential works which nobody has verified.
func TestHelpTellsOfVerification(t *testing.T) {
	_, help, _ := keyferry(t, "", "--help")
	if !strings.Contains(help, "The target may reject an issued credential") {
		t.Error(help)
	}
}
