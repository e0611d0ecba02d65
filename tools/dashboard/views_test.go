package dashboard_test

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// TestViews looks at each page, in both colours, wide and narrow, and makes the screenshots of
// docs/dashboard.md.
func TestViews(t *testing.T) {
	f := newFleet(t)
	f.example()
	b := newBrowser(t)
	b.open(start(t, server, "default"))
	views := map[string][]string{
		"": {"6 targets ready", "2 not ready", "12 Pods use them", "11 with a credential", "fleet/paris", "Unreachable", unreachable, "5 of 6", "in 2 h"},
		"targets/fleet/berlin": {"Ready", "https://berlin.example.com:6443", "keyferry-pods/fleet.berlin", "shop/Deployment web", "5 of 6", "monitoring/prometheus",
			"shop/web-7d9c5b-x8v2k", "back-off 40s", "all ServiceAccounts of namespace platform"},
		"targets/fleet/paris":           {"Why, and how to fix it", unreachable, "data/etl-7d9c5b-00007", "4 min ago"},
		"pods/shop/web-7d9c5b-x8v2k":    {"CrashLoopBackOff", "Deployment web", "fleet/berlin", "Check now"},
		"credentialrequests/ci/argo-cd": {"Ready", "robot", "fleet/oslo", "Renewal due"},
		"expiry":                        {"monitoring/thanos", "in 25 min", "in 13 min", "data/report-0"},
		"access":                        {"May not use their target any more", "ci/runner-2", "data/report", "RoleBinding fleet/keyferry:use:lagos:data:report"},
		"events":                        {"Recovered", "the API server answers again", "NotAllowed"},
		"?q=report":                     {"No target matches.", "data/report-0"},
		"?namespace=data":               {"fleet/paris", "fleet/lagos"},
		"targets/fleet/berlin?q=x8v2k":  {"shop/web-7d9c5b-x8v2k", "0 of 1"},
	}
	for page, parts := range views {
		b.visit(page)
		for _, part := range parts {
			b.shows(part)
		}
		for _, width := range []int64{380, 1400} {
			b.look(width, "light")
			if wide := evaluate[int64](b, "document.documentElement.scrollWidth"); wide > width {
				t.Errorf("%q is %d pixels wide at %d", page, wide, width)
			}
		}
		b.accessible(page)
		b.look(1400, "dark")
		b.accessible(page + " in dark")
	}
	for _, picture := range []struct {
		page, name, scheme string
		width              int64
	}{
		{"", "targets-1400-light", "light", 1400}, {"targets/fleet/berlin", "target-1400-dark", "dark", 1400},
		{"", "targets-380-light", "light", 380}, {"", "targets-380-dark", "dark", 380},
	} {
		b.visit(picture.page)
		b.look(picture.width, picture.scheme)
		b.screenshot("dashboard-" + picture.name)
	}
	b.noErrors()
}

// TestLive: the page shows each change without a reload, and keeps focus and search.
func TestLive(t *testing.T) {
	f := newFleet(t)
	f.example()
	b := newBrowser(t)
	b.open(start(t, server, "default"))
	b.run(chromedp.Evaluate[chromedp.Void](`document.querySelector("[id='row:TargetCluster:fleet/oslo'] a").focus()`))
	then := func(text string, change func()) {
		t.Helper()
		begin := time.Now()
		change()
		b.shows(text)
		t.Logf("%q: shown after %s", text, time.Since(begin).Round(time.Millisecond))
	}
	then("3 not ready", func() { f.health("oslo", targetOptions{reason: "Unreachable", message: "no route to oslo"}) })
	then("no route to oslo", func() {})
	then("2 not ready", func() { f.health("oslo", targetOptions{}) })
	then("13 Pods use them", func() { f.pod("ci", "runner-3", "fleet/madrid", podOptions{account: "runner"}) })
	then("3 without permission", func() { f.revoke("madrid", "ci", "runner") })
	then("1 without permission", func() { f.grant("madrid", "ci", "runner") })
	then("fleet/zurich", func() { f.target("zurich", targetOptions{}) })
	if focus := evaluate[string](b, "document.activeElement.innerText"); focus != "fleet/oslo" {
		t.Errorf("the focus has moved to %q", focus)
	}
	b.visit("targets/fleet/madrid")
	then("ci/runner-4", func() { f.pod("ci", "runner-4", "fleet/madrid", podOptions{account: "runner"}) })
	b.visit("events")
	then("it is there again", func() { f.event("oslo", "Recovered", "it is there again", 0) })
	b.noErrors()
}

// TestSearchAndKeys: search works as the user types, has a URL, and the keyboard reaches all.
func TestSearchAndKeys(t *testing.T) {
	f := newFleet(t)
	f.example()
	b := newBrowser(t)
	b.open(start(t, server, "default"))
	b.run(chromedp.KeyEvent("/report"))
	b.shows("data/report-0")
	b.until(`new URLSearchParams(location.search).get("q").endsWith("report")`)
	b.run(chromedp.KeyEvent("\u001b"), chromedp.Evaluate[chromedp.Void](`document.activeElement.blur()`), chromedp.KeyEvent("j"))
	if focus := evaluate[string](b, "document.activeElement.innerText"); focus != "data/report-0" {
		t.Errorf("j selects %q", focus)
	}
	b.run(chromedp.KeyEvent("\r"))
	b.until(`document.querySelector("h1").innerText.includes("data/report-0")`)
	b.until(isLive)
	b.run(chromedp.KeyEvent("?"))
	b.until(`document.getElementById("keys").open`)
	b.accessible("keys")
	b.noErrors()
}

// hostile is text that users can write into annotations and messages.
const hostile = `</script><script>alert(1)</script><img src=x onerror="alert(2)"><svg onload=alert(3)>' onfocus='alert(4)' autofocus ` + "\u202e\u2067txt.exe"

// TestHostileNames: markup, right-to-left and very long texts are shown, and do nothing, also when
// they arrive by an update.
func TestHostileNames(t *testing.T) {
	f := newFleet(t)
	f.namespaces("fleet", "app")
	b := newBrowser(t)
	b.open(start(t, server, "default"))
	long := strings.Repeat("very-long-", 24) + "name"
	f.target("hostile", targetOptions{reason: "Unreachable", message: hostile + strings.Repeat("A", 3000)})
	f.target(long, targetOptions{})
	f.pod("app", "crafted", "", podOptions{raw: fmt.Sprintf(`{"clusters":[%q,"../../access"],"delivery":%q}`, hostile, hostile)})
	f.pod("app", long, "fleet/hostile", podOptions{waiting: "CrashLoopBackOff", message: "\u202eשלום " + hostile})
	f.event("hostile", "Unreachable", hostile, time.Minute)
	b.shows("fleet/" + long)
	for _, page := range []string{"", "targets/fleet/hostile", "pods/app/crafted", "pods/app/" + long, "expiry", "access", "events", "?q=%3Cscript%3Ealert(5)%3C/script%3E%22onfocus=alert(6)%20autofocus"} {
		b.visit(page)
		for _, width := range []int64{380, 1400} {
			b.look(width, "light")
			if wide := evaluate[int64](b, "document.documentElement.scrollWidth"); wide > width {
				t.Errorf("%q is %d pixels wide at %d", page, wide, width)
			}
		}
		if n := evaluate[int](b, `document.querySelectorAll("#main script, #main img, #main svg, [onerror], [onload], [onfocus]").length`); n > 0 {
			t.Errorf("%q has %d elements of the names", page, n)
		}
		if text := b.text(); strings.ContainsAny(text, "\u202e\u2067") {
			t.Errorf("%q has characters that reverse the text", page)
		}
	}
	b.visit("events")
	b.shows("<script>alert(1)</script>")
	b.noErrors()
}

// TestExport: the file opens from disk, loads nothing, and looks like the page.
func TestExport(t *testing.T) {
	f := newFleet(t)
	f.example()
	f.target("hostile", targetOptions{reason: "Unreachable", message: hostile})
	file, err := os.Create(filepath.Join(t.TempDir(), "keyferry.html"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(run(t, server, "default").Export(t.Context(), file), file.Close()); err != nil {
		t.Fatal(err)
	}
	b := newBrowser(t)
	b.run(chromedp.Navigate("file://" + file.Name()))
	for _, part := range []string{"6 targets ready", "fleet/paris", unreachable, "data/report-0", "ci/argo-cd", "all ServiceAccounts of namespace platform", "Recovered", "<script>alert(1)</script>"} {
		b.shows(part)
	}
	for what, expression := range map[string]string{
		"scripts":             `document.scripts.length`,
		"files that it loads": `performance.getEntriesByType("resource").filter((file) => !file.name.startsWith("data:")).length`,
		"links to nothing":    `[...document.links].filter((link) => !document.getElementById(decodeURIComponent(link.hash.slice(1)))).length`,
		"unstyled headers":    `[...document.querySelectorAll(".top")].filter((top) => getComputedStyle(top).display !== "flex").length`,
	} {
		if n := evaluate[int](b, expression); n > 0 {
			t.Errorf("%d %s", n, what)
		}
	}
	for _, width := range []int64{380, 1400} {
		b.look(width, "light")
		if wide := evaluate[int64](b, "document.documentElement.scrollWidth"); wide > width {
			t.Errorf("it is %d pixels wide at %d", wide, width)
		}
	}
	b.accessible("export")
	b.look(1400, "dark")
	b.accessible("export in dark")
	b.noErrors()
}

// TestMissingRights: a developer sees the own namespace, and what is unknown.
func TestMissingRights(t *testing.T) {
	f := newFleet(t)
	f.example()
	list := rbacv1.PolicyRule{APIGroups: []string{"", "keyferry.dev"}, Resources: []string{"pods", "credentialrequests"}, Verbs: []string{"list", "watch"}}
	f.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "developer"}, Rules: []rbacv1.PolicyRule{list}})
	f.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "developer"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "developer"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "developer"}},
	})
	cfg := rest.CopyConfig(server)
	cfg.Impersonate.UserName = "developer"
	own := newClient(t, cfg)
	waitFor(t, func() error { return own.List(t.Context(), &corev1.PodList{}, inNamespace("shop")) })
	b := newBrowser(t)
	b.open(start(t, cfg, "shop"))
	b.shows("Some information is missing, because of your permissions")
	b.run(chromedp.Click(chromedp.CSS("summary")))
	for _, part := range []string{"TargetClusters: unknown", "Pods: only namespace shop", `User "developer" cannot list resource "targetclusters"`, "6 Pods use them", "you may not list TargetClusters"} {
		b.shows(part)
	}
	b.visit("access")
	b.shows("Unknown: grants may be missing here.")
	b.visit("events")
	b.shows("Unknown: you may not list Events.")
	b.accessible(path.Join("events", "without rights"))
	b.noErrors()
}
