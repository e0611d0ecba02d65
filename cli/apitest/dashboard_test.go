package apitest

import (
	"bufio"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDashboardCommand: the link that the command prints signs in one browser, and Ctrl-C ends the
// command.
func TestDashboardCommand(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "dashboard", "--browser=false") // #nosec G204 -- for tests only
	cmd.Env = append(os.Environ(), "KUBECONFIG="+file, asCommand+"=yes")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	link := ""
	lines := bufio.NewScanner(stdout)
	for link == "" && lines.Scan() {
		link = regexp.MustCompile(`http://127\.0\.0\.1:\d+/\S+`).FindString(lines.Text())
	}
	if link == "" {
		t.Fatalf("no link; %s", stderr.String())
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	get := func(jar http.CookieJar, url string) (code int, body string) {
		t.Helper()
		answer, err := (&http.Client{Jar: jar, Transport: transport}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	base, _, _ := strings.Cut(link, "open?")
	if code, _ := get(nil, base); code != http.StatusUnauthorized {
		t.Errorf("without the link: %d", code)
	}
	if code, body := get(jar, link); code != http.StatusOK {
		t.Errorf("the link: %d %s", code, body)
	}
	if code, _ := get(nil, link); code != http.StatusForbidden {
		t.Errorf("the link again: %d", code)
	}
	for path, want := range map[string]string{"": "tenant-1", "pods/app/web-1": "web-1", "assets/page.css": "color-scheme"} {
		if code, body := get(jar, base+path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || stderr.String() != "" {
		t.Errorf("after Ctrl-C: %v, %s", err, stderr.String())
	}
}
