package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestDashboard: the page of `keyferry dashboard` shows that a Pod is created, that a target stops
// answering and answers again, and that a permission is revoked. The test logs how long each took,
// which is below 2 s unless this machine is overloaded. The test only fails after the limit in
// shows.
func TestDashboard(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	binding := tn.allow(t, ns, "default")
	page := startDashboard(t).open(t, "targets/"+fleet+"/"+tn.Target)
	page.shows(t, time.Now(), "the target", "target", "✓ Ready ")

	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "shown", Namespace: ns, Annotations: map[string]string{"keyferry.dev/cluster": fleet + "/" + tn.Target}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"e2e.keyferry.dev/no-such-node": "true"}, // the page does not need it to run
			Containers:   []corev1.Container{{Name: "client", Image: suite.clientImage}},
		},
	}
	begin := time.Now()
	if err := suite.management.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	page.shows(t, begin, "the new Pod", "pods", ns+"/ "+pod.Name+" ")

	server, err := url.Parse(tn.Server)
	if err != nil {
		t.Fatal(err)
	}
	tn.applyTargetCluster(t, "{server: 'https://"+server.Hostname()+":9'}")
	at, message := tn.observe(t, "False")
	page.shows(t, at, "that the target does not answer", "target", " "+words(message)+" ")
	tn.applyTargetCluster(t, `{}`)
	at, _ = tn.observe(t, "True")
	page.shows(t, at, "that the target answers again", "target", "✓ Ready ")

	begin = time.Now()
	if err := suite.management.Delete(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	page.shows(t, begin, "that the Pod may not use the target any more", "pods", " default ! no ")
}

// observe waits until the controller has written the status of the condition Ready, and returns the
// time and the message.
func (tn tenant) observe(t *testing.T, status string) (at time.Time, message string) {
	t.Helper()
	c, err := client.NewWithWatch(suite.management.config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion("keyferry.dev/v1alpha1")
	list.SetKind("TargetClusterList")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	changes, err := c.Watch(ctx, list, client.InNamespace(fleet), client.MatchingFields{"metadata.name": tn.Target})
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	last := ""
	for change := range changes.ResultChan() {
		tc, ok := change.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		is, message, err := conditionOf(tc, "Ready")
		if err == nil && is == status {
			return time.Now(), message
		}
		last = is + " " + message
	}
	t.Fatalf("the condition Ready of TargetCluster %s is not %s, but %s", tn.Target, status, last)
	return time.Time{}, ""
}

// dashboard is a `keyferry dashboard` that runs.
type dashboard struct {
	base    string
	browser *http.Client // which has followed the link
}

// startDashboard runs `keyferry dashboard` until the test ends, which is then ended as by Ctrl-C.
func startDashboard(t *testing.T) dashboard {
	t.Helper()
	cmd := suite.withKubeconfig(suite.management.kubeconfig, suite.program, "dashboard", "--browser=false")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { interrupted(t, cmd, &stderr) })
	link := ""
	for lines := bufio.NewScanner(stdout); link == "" && lines.Scan(); {
		link = regexp.MustCompile(`http://127\.0\.0\.1:\d+/\S+`).FindString(lines.Text())
	}
	base, _, ok := strings.Cut(link, "open?")
	if !ok {
		t.Fatal("keyferry dashboard prints no link")
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	d := dashboard{base, &http.Client{Jar: jar, Transport: &http.Transport{}}}
	t.Cleanup(d.browser.CloseIdleConnections)
	if err := d.get(t, link).Close(); err != nil {
		t.Fatal(err)
	}
	return d
}

// interrupted ends a program as Ctrl-C does.
func interrupted(t *testing.T, cmd *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("%s, after Ctrl-C: %v\n%s", cmd, err, stderr)
	}
}

func (d dashboard) get(t *testing.T, link string) io.ReadCloser {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := d.browser.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", request.URL.Path, response.Status)
	}
	return response.Body
}

// openPage is a page, as the browser keeps it current.
type openPage struct {
	updates <-chan pageUpdate
	texts   map[string]string // by fragment
}

// pageUpdate is an event of the page's stream.
type pageUpdate struct {
	at        time.Time
	fragments map[string]string // HTML by id
}

// open opens the page at a path, as the script of the page does, until the test ends.
func (d dashboard) open(t *testing.T, path string) openPage {
	t.Helper()
	stream := d.get(t, d.base+"stream?page="+url.QueryEscape(path))
	updates, ended := make(chan pageUpdate, 1000), make(chan struct{})
	go func() {
		defer close(ended)
		defer close(updates)
		lines := bufio.NewScanner(stream)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
			if !ok {
				continue
			}
			update := pageUpdate{at: time.Now()}
			suite.witness.look("the dashboard's page "+path, data)
			if err := json.Unmarshal(data, &update.fragments); err != nil {
				t.Errorf("the stream of page %s: %v", path, err)
				return
			}
			updates <- update
		}
	}()
	t.Cleanup(func() {
		_ = stream.Close()
		<-ended
	})
	return openPage{updates, map[string]string{}}
}

// shows waits until a fragment of the page has a text, and logs how long after a time it came.
func (p openPage) shows(t *testing.T, begin time.Time, what, fragment, text string) {
	t.Helper()
	const limit = 30 * time.Second
	timeout := time.After(limit)
	at := begin
	for !strings.Contains(p.texts[fragment], text) {
		select {
		case update, ok := <-p.updates:
			if !ok {
				t.Fatalf("the stream of the page has ended before it shows %s", what)
			}
			at = update.at
			for id, content := range update.fragments {
				p.texts[id] = words(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(content, " ")) + " "
			}
		case <-timeout:
			t.Fatalf("after %s, the page does not show %s: no %q in\n%s", limit, what, text, p.texts[fragment])
		}
	}
	t.Logf("the page shows %s after %s", what, max(0, at.Sub(begin)).Round(time.Millisecond))
}

// words returns the text of HTML without tags, with one space between words.
func words(text string) string {
	return strings.Join(strings.Fields(html.UnescapeString(text)), " ")
}
