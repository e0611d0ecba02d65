package apitest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// dashboardCommand returns the command with arguments, and its standard error.
func dashboardCommand(t *testing.T, args ...string) (cmd *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), self, append([]string{"dashboard"}, args...)...) // #nosec G204 -- for tests only
	cmd.Env = append(os.Environ(), "KUBECONFIG="+file, asCommand+"=yes")
	stderr = &bytes.Buffer{}
	cmd.Stderr = stderr
	return cmd, stderr
}

// startDashboard starts the command, and returns the link that it prints.
func startDashboard(t *testing.T, cmd *exec.Cmd) (link string) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); link == "" && lines.Scan(); {
		link = regexp.MustCompile(`http://127\.0\.0\.1:\d+/\S+`).FindString(lines.Text())
	}
	if link == "" {
		t.Fatalf("no link; %v, %s", cmd.Wait(), cmd.Stderr)
	}
	return link
}

// TestDashboardCommand: the link that the command prints signs in one browser, and Ctrl-C ends the
// command while a page is open.
func TestDashboardCommand(t *testing.T) {
	cmd, stderr := dashboardCommand(t, "--browser=false")
	link := startDashboard(t, cmd)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	get := func(jar http.CookieJar, url string) *http.Response {
		t.Helper()
		answer, err := (&http.Client{Jar: jar, Transport: transport}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	read := func(jar http.CookieJar, url string) (code int, body string) {
		t.Helper()
		answer := get(jar, url)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	base, _, _ := strings.Cut(link, "open?")
	if code, _ := read(nil, base); code != http.StatusUnauthorized {
		t.Errorf("without the link: %d", code)
	}
	if code, body := read(jar, link); code != http.StatusOK {
		t.Errorf("the link: %d %s", code, body)
	}
	if code, _ := read(nil, link); code != http.StatusForbidden {
		t.Errorf("the link again: %d", code)
	}
	for path, want := range map[string]string{"": "tenant-1", "pods/app/web-1": "web-1", "assets/page.css": "color-scheme"} {
		if code, body := read(jar, base+path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	stream := get(jar, base+"stream?page=")
	defer stream.Body.Close()
	if line, err := bufio.NewReader(stream.Body).ReadString('\n'); err != nil || !strings.HasPrefix(line, "data: {") {
		t.Errorf("the stream begins with %q, %v", line, err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("after Ctrl-C: %v, %s", err, stderr)
	}
}

// TestDashboardPort: a port in use is an error that names the flag.
func TestDashboardPort(t *testing.T) {
	other, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, port, err := net.SplitHostPort(other.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cmd, stderr := dashboardCommand(t, "--browser=false", "--port", port)
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "127.0.0.1:"+port) || !strings.Contains(stderr.String(), "use another --port") {
		t.Errorf("%v, %s", err, stderr)
	}
}

// TestDashboardBrowser: the command opens the link, in a process group that Ctrl-C does not end.
// Without a display or a program that opens links, the command prints a warning and continues.
func TestDashboardBrowser(t *testing.T) {
	programs := t.TempDir()
	opened := filepath.Join(programs, "opened")
	if err := exec.CommandContext(t.Context(), "mkfifo", opened).Run(); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nread -r _ _ _ _ group _ </proc/$$/stat\necho \"$group $*\" >" + opened + "\n"
	if err := os.WriteFile(filepath.Join(programs, "xdg-open"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		environment []string
		want        string // on standard error
	}{
		"browser":    {[]string{"DISPLAY=:0", "PATH=" + programs}, ""},
		"no display": {[]string{"DISPLAY=", "WAYLAND_DISPLAY=", "PATH=" + programs}, "there is no display): open the link"},
		"no program": {[]string{"DISPLAY=:0", "PATH="}, "xdg-open"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, stderr := dashboardCommand(t)
			cmd.Env = append(cmd.Env, test.environment...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			link := startDashboard(t, cmd)
			if test.want == "" {
				text, err := os.ReadFile(opened)
				group, argument, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
				if err != nil || argument != link || group == strconv.Itoa(cmd.Process.Pid) {
					t.Errorf("%v: the browser is in the process group %s of %d, and opens %s", err, group, cmd.Process.Pid, argument)
				}
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil || !strings.Contains(stderr.String(), test.want) || test.want == "" && stderr.Len() > 0 {
				t.Errorf("%v, %s", err, stderr)
			}
		})
	}
}
