package tokenapi_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyferry/keyferry/internal/tokenapi"
	"github.com/keyferry/keyferry/providers"
)

const planted = "planted-secret"

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// credential is an ExecCredential with this status.
func credential(status string) string {
	return `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":` + status + `}`
}

func withToken(token string) string {
	quoted, err := json.Marshal(token)
	if err != nil {
		panic(err)
	}
	return credential(`{"token":` + string(quoted) + `}`)
}

func jwt(end time.Time) string {
	return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, end.Unix())) + "." + planted
}

// kubeconfig is one with two users; context is what current-context says.
func kubeconfig(context string) string {
	return `apiVersion: v1
kind: Config
current-context: ` + context + `
contexts:
- name: other
  context: {cluster: c, user: other}
- name: mine
  context: {cluster: c, user: me}
- name: stray
  context: {cluster: c, user: gone}
clusters:
- name: c
  cluster: {server: "https://203.0.113.7"}
users:
- name: other
  user: {token: other-token}
- name: me
  user: {token: my-token}
`
}

const oneUser = `apiVersion: v1
current-context: gone
users:
- name: me
  user:
    token: my-token
`

func TestRead(t *testing.T) {
	expiring := credential(`{"token":"t","expirationTimestamp":"2026-03-01T12:15:00Z"}`)
	for name, test := range map[string]struct {
		answer string
		token  string
		life   time.Duration
	}{
		"opaque":                      {withToken("t"), "t", 5 * time.Minute},
		"expiring":                    {expiring, "t", 15 * time.Minute},
		"expiring, another zone":      {credential(`{"token":"t","expirationTimestamp":"2026-03-01T21:15:00+09:00"}`), "t", 15 * time.Minute},
		"wrapped":                     {`{"execCredential":` + expiring + `}`, "t", 15 * time.Minute},
		"wrapped, with more":          {`{"provider":"aws","execCredential":` + withToken("t") + `}`, "t", 5 * time.Minute},
		"v1beta1":                     {strings.Replace(withToken("t"), "/v1", "/v1beta1", 1), "t", 5 * time.Minute},
		"a JWT":                       {withToken(jwt(now.Add(time.Hour))), jwt(now.Add(time.Hour)), time.Hour},
		"no expiry but empty":         {credential(`{"token":"t","expirationTimestamp":""}`), "t", 5 * time.Minute},
		"no expiry but zero":          {credential(`{"token":"t","expirationTimestamp":"0001-01-01T00:00:00Z"}`), "t", 5 * time.Minute},
		"no expiry but null":          {credential(`{"token":"t","expirationTimestamp":null}`), "t", 5 * time.Minute},
		"line end":                    {withToken("t\n"), "t", 5 * time.Minute},
		"kubeconfig":                  {withToken(kubeconfig("mine")), "my-token", 5 * time.Minute},
		"kubeconfig, another context": {withToken(kubeconfig("other")), "other-token", 5 * time.Minute},
		"kubeconfig, one user":        {withToken(oneUser), "my-token", 5 * time.Minute},
		"kubeconfig in JSON":          {withToken(`{"users":[{"name":"me","user":{"token":"my-token"}}]}`), "my-token", 5 * time.Minute},
		"kubeconfig, expiring":        {`{"execCredential":` + credential(`{"token":"users:\n- user: {token: my-token}\n","expirationTimestamp":"2026-03-01T12:15:00Z"}`) + `}`, "my-token", 15 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tokenapi.Read([]byte(test.answer), now)
			if err != nil {
				t.Fatal(err)
			}
			if got.Token != test.token || got.NotAfter.Sub(now) != test.life {
				t.Errorf("got %q for %v, want %q for %v", got.Token, got.NotAfter.Sub(now), test.token, test.life)
			}
		})
	}
}

// TestReadVersions: what versions of CB-Spider
// (https://github.com/cloud-barista/cb-spider/pull/1828) and CB-Tumblebug
// (https://github.com/cloud-barista/cb-tumblebug/pull/2752) answer. CB-Tumblebug wraps what
// CB-Spider answers; for NCP, older versions have a whole kubeconfig as the token.
func TestReadVersions(t *testing.T) {
	ncp := "k8s-ncp-v1." + base64.StdEncoding.EncodeToString(fmt.Appendf(nil,
		`{"timestamp":"%d","accessKey":"a","signature":"s","path":"/iam/v1/user?clusterUuid=u"}`, now.UnixMilli()))
	eks := "k8s-aws-v1." + base64.RawURLEncoding.EncodeToString([]byte(
		"https://sts.ap-northeast-2.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Date="+now.Format("20060102T150405Z")+"&X-Amz-Expires=60"))
	nks := "apiVersion: v1\nkind: Config\nclusters:\n- name: nks\n  cluster: {server: \"https://u.kr.vnks.ntruss.com\", certificate-authority-data: Y2E=}\n" +
		"contexts:\n- name: nks\n  context: {cluster: nks, user: nks_KR_u}\ncurrent-context: nks\nusers:\n- name: nks_KR_u\n  user:\n    token: " + ncp + "\n"
	until := func(token string, life time.Duration) string {
		return credential(`{"token":"` + token + `","expirationTimestamp":"` + now.Add(life).Format(time.RFC3339) + `"}`)
	}
	for name, test := range map[string]struct {
		answer string
		token  string
		life   time.Duration
	}{
		"AWS":                        {until(eks, 14*time.Minute), eks, 14 * time.Minute},
		"AWS, before expiry":         {withToken(eks), eks, 14 * time.Minute},
		"GCP":                        {until("ya29.a", time.Hour), "ya29.a", time.Hour},
		"GCP, before expiry":         {withToken("ya29.a"), "ya29.a", 5 * time.Minute},
		"NCP":                        {until(ncp, 4*time.Minute), ncp, 4 * time.Minute},
		"NCP, before expiry":         {withToken(ncp), ncp, 4 * time.Minute},
		"NCP, before bare tokens":    {withToken(nks), ncp, 4 * time.Minute},
		"another zone than UTC":      {credential(`{"token":"t","expirationTimestamp":"2026-03-01T21:14:00+09:00"}`), "t", 14 * time.Minute},
		"relayed from an old Spider": {credential(`{"token":"` + ncp + `","expirationTimestamp":""}`), ncp, 4 * time.Minute},
	} {
		for form, answer := range map[string]string{"CB-Spider": test.answer, "CB-Tumblebug": `{"execCredential":` + test.answer + `}`} {
			t.Run(form+"/"+name, func(t *testing.T) {
				got, err := tokenapi.Read([]byte(answer), now)
				if err != nil || got.Token != test.token || got.NotAfter.Sub(now) != test.life {
					t.Errorf("got %q for %v (%v), want it for %v", got.Token, got.NotAfter.Sub(now), err, test.life)
				}
			})
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		want   error
		says   string
	}{
		"nothing":                      {"", providers.ErrUnavailable, "cannot be read"},
		"HTML":                         {"<html>" + planted, providers.ErrUnavailable, "cannot be read"},
		"torn":                         {withToken(planted)[:100], providers.ErrUnavailable, "cannot be read"},
		"more behind":                  {withToken("t") + planted, providers.ErrUnavailable, "cannot be read"},
		"other JSON":                   {`{"token":"` + planted + `"}`, providers.ErrUnavailable, "no ExecCredential"},
		"null":                         {`null`, providers.ErrUnavailable, "no ExecCredential"},
		"wrapped nothing":              {`{"execCredential":null}`, providers.ErrUnavailable, "no ExecCredential"},
		"of another group":             {strings.Replace(withToken(planted), "client.authentication", "example", 1), providers.ErrUnavailable, "no ExecCredential"},
		"expiry of another form":       {credential(`{"token":"` + planted + `","expirationTimestamp":"` + planted + `"}`), providers.ErrUnavailable, "cannot be read"},
		"empty token":                  {withToken(""), providers.ErrRefused, "has no token"},
		"blank token":                  {withToken(" \n"), providers.ErrRefused, "has no token"},
		"no status":                    {credential("null"), providers.ErrRefused, "has no token"},
		"ended":                        {credential(`{"token":"` + planted + `","expirationTimestamp":"2026-03-01T11:59:00Z"}`), providers.ErrRefused, "expired at 2026-03-01T11:59:00Z"},
		"ended JWT":                    {withToken(jwt(now.Add(-time.Minute))), providers.ErrRefused, "check the clocks"},
		"two words":                    {withToken(planted + " " + planted), providers.ErrRefused, "YAML"},
		"no YAML":                      {withToken("users: [" + planted), providers.ErrRefused, "YAML"},
		"kubeconfig, no user":          {withToken("current-context: a\nusers: []"), providers.ErrRefused, "not in the list of its 0 users"},
		"kubeconfig, none of two":      {withToken(kubeconfig("gone")), providers.ErrRefused, "not in the list of its 2 users"},
		"kubeconfig, user gone of two": {withToken(kubeconfig("stray")), providers.ErrRefused, "not in the list of its 2 users"},
		"kubeconfig, exec":             {withToken("users:\n- name: " + planted + "\n  user: {exec: {command: ncp-iam-authenticator}}"), providers.ErrRefused, "or a token that an HTTP header cannot contain"},
		"kubeconfig in a kubeconfig":   {withToken("users:\n- user:\n    token: |\n      users:\n      - user: {token: " + planted + "}"), providers.ErrRefused, "or a token that an HTTP header cannot contain"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tokenapi.Read([]byte(test.answer), now)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), planted) {
				t.Errorf("got %v, want that it is %q and says %q", err, test.want, test.says)
			}
			if got.Token != "" {
				t.Error("a token next to an error")
			}
		})
	}
}

// A few kilobytes that stand for gigabytes. Where they are written out, the test runs out of time
// or memory.
func TestReadIsNotBlownUp(t *testing.T) {
	text := "x: &x " + strings.Repeat("a", 100_000) + "\ny: [" + strings.Repeat("*x,", 40_000) + "]\nusers: [{user: {token: t}}]\n"
	if got, err := tokenapi.Read([]byte(withToken(text)), now); err != nil || got.Token != "t" {
		t.Errorf("got %.10q, %v", got.Token, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(withToken("t"))
	f.Add(`{"execCredential":` + credential(`{"token":"t","expirationTimestamp":"2026-03-01T12:15:00Z"}`) + `}`)
	f.Add(withToken(kubeconfig("mine")))
	f.Add(withToken(kubeconfig("gone")))
	f.Add(withToken(oneUser))
	f.Add(withToken("a: &a [*a]"))
	f.Add(withToken("users: [null, {user: null}]\ncontexts: [null]"))
	f.Add(withToken(`{"users":[{"user":{"token":"{}"}}]}`))
	f.Add(`{"message":"cluster c does not exist"}`)
	f.Fuzz(func(t *testing.T, answer string) {
		got, err := tokenapi.Read([]byte(answer), now)
		if err != nil {
			if errors.Is(err, providers.ErrRefused) == errors.Is(err, providers.ErrUnavailable) {
				t.Errorf("%q is of no class, or of two", err)
			}
			return
		}
		if got.Token == "" || strings.ContainsFunc(got.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || got.Token[0] == '{' {
			t.Errorf("handed on what is no token: %q", got.Token)
		}
		if !got.NotAfter.After(now) {
			t.Errorf("ends at %v", got.NotAfter)
		}
	})
}
