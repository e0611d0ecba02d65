package internet_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/keyferry/keyferry/internal/internet"
)

var outside *internet.Internet

func TestMain(m *testing.M) {
	var err error
	if outside, err = internet.Connect(); err != nil {
		panic(err)
	}
	code := m.Run()
	outside.Close()
	os.Exit(code)
}

func get(t *testing.T, url string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func TestHosts(t *testing.T) {
	hello := func(w http.ResponseWriter, req *http.Request) { _, _ = io.WriteString(w, req.Host+req.RequestURI) }
	for _, host := range []string{"sts.eu-central-1.amazonaws.com", "login.microsoftonline.com"} {
		stop := outside.Serve(t, host, http.HandlerFunc(hello))
		for _, address := range []string{host, host + ":8443"} {
			if got, err := get(t, "https://"+address+"/a?b"); got != address+"/a?b" {
				t.Errorf("got %q, %v", got, err)
			}
		}
		stop()
	}
	for _, url := range []string{"https://sts.eu-central-1.amazonaws.com", "https://example.com"} {
		if got, err := get(t, url); err == nil {
			t.Errorf("%s, which is not there any more, or never was, said %q", url, got)
		}
	}
	near := httptest.NewServer(http.HandlerFunc(hello))
	defer near.Close()
	if got, err := get(t, near.URL+"/a"); err != nil {
		t.Errorf("on this machine: %q, %v", got, err)
	}
}
