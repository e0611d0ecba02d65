package resolve

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/providers"
)

func TestSubjected(t *testing.T) {
	const planted = "planted"
	token := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + planted
	}
	pod, nobody := providers.Identity{PodName: "web-0"}, providers.Identity{}
	right := token(`{"aud":["sts.example.com"]}`)
	for name, test := range map[string]struct {
		audience string
		req      providers.Request
		want     string // that the provider is sent
		says     string // the error
	}{
		"right":       {"sts.example.com", providers.Request{Identity: pod, SubjectToken: right}, right, ""},
		"not needed":  {"", providers.Request{Identity: pod, SubjectToken: right}, "", ""},
		"none":        {"sts.example.com", providers.Request{Identity: pod}, "", "the Pod sent no such token: recreate the Pod"},
		"another":     {"api://other", providers.Request{Identity: pod, SubjectToken: right}, "", `the Pod's token is for ["sts.example.com"]: recreate the Pod`},
		"that for us": {"sts.example.com", providers.Request{Identity: pod, SubjectToken: token(`{"aud":"keyferry"}`)}, "", `is for ["keyferry"]`},
		"garbage":     {"sts.example.com", providers.Request{Identity: pod, SubjectToken: planted}, "", "recreate the Pod"},
		"no Pod asks": {"sts.example.com", providers.Request{Identity: nobody}, "", "the request does not come from a Pod"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := Resolution{SubjectAudience: test.audience}.Subjected(test.req)
			if test.says == "" {
				if err != nil || req.SubjectToken != test.want {
					t.Errorf("got %q, %v, want %q", req.SubjectToken, err, test.want)
				}
				return
			}
			if !errors.Is(err, ErrSubjectToken) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), test.audience) || strings.Contains(err.Error(), planted) {
				t.Errorf("got %v, want %s", err, test.says)
			}
		})
	}
}
