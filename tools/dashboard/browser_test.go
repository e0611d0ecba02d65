// Package dashboard_test opens the dashboard of the command in Chromium, against a real API server.
package dashboard_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/check"
	"github.com/keyferry/keyferry/cli/dashboard"
	"github.com/keyferry/keyferry/internal/testenv"
)

var (
	update = flag.Bool("update", false, "write the screenshots of the docs")
	server *rest.Config
)

func TestMain(m *testing.M) {
	if err := os.Chdir(filepath.Join("..", "..")); err != nil { // where package testenv finds the CRDs
		panic(err)
	}
	os.Exit(testenv.Run(m, func(cfg *rest.Config) {
		cfg.QPS, cfg.Burst = 1000, 1000
		server = cfg
	}))
}

// pageTimeout is for anything that a page shows, on a machine that has much else to do.
const pageTimeout = time.Minute

// newFleet returns an empty fleet.
func newFleet(tb testing.TB) fleet {
	tb.Helper()
	f := fleet{newClient(tb, server), tb}
	f.clear()
	return f
}

func newClient(tb testing.TB, cfg *rest.Config) client.WithWatch {
	tb.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		tb.Fatal(err)
	}
	c, err := client.NewWithWatch(cfg, client.Options{Scheme: scheme})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// run runs a dashboard for a user of the API server, until the test ends.
func run(tb testing.TB, cfg *rest.Config, namespace string) *dashboard.Dashboard {
	tb.Helper()
	c := newClient(tb, cfg)
	d, err := dashboard.New(dashboard.Config{
		Client: c, Namespace: namespace, Cluster: "management",
		CheckPod: func(ctx context.Context, pod types.NamespacedName) check.Report {
			return check.Pod(ctx, c, check.ExecIn(cfg), pod)
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Run(ctx)
	}()
	tb.Cleanup(func() {
		cancel()
		<-ended
	})
	listing, stop := context.WithTimeout(ctx, pageTimeout)
	defer stop()
	if err := d.Listed(listing); err != nil {
		tb.Fatal(err)
	}
	return d
}

// start serves a dashboard for a user of the API server, until the test ends, and returns its link.
func start(tb testing.TB, cfg *rest.Config, namespace string) string {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := run(tb, cfg, namespace).Listen(ctx, 0)
	if err != nil {
		cancel()
		tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	return s.URL()
}

// chromium is where Debian has it.
func chromium(tb testing.TB) string {
	tb.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	tb.Fatal("there is no Chromium: apt install chromium")
	return ""
}

// browser is a tab of Chromium.
type browser struct {
	tb  testing.TB
	ctx context.Context
	// messages are the errors that the page has caused.
	messages chan string
}

// newBrowser starts Chromium; options are added to those of all tests.
func newBrowser(tb testing.TB, options ...chromedp.ExecAllocatorOption) *browser {
	tb.Helper()
	all := slices.Concat(chromedp.DefaultExecAllocatorOptions[:], []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(chromium(tb)), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("lang", "en-US"),
		chromedp.UserDataDir(tb.TempDir()),
	}, options)
	ctx, cancelAllocator := chromedp.NewExecAllocator(context.Background(), all...)
	ctx, cancelTab := chromedp.NewContext(ctx)
	b := &browser{tb, ctx, make(chan string, 100)}
	tb.Cleanup(func() {
		cancelTab()
		cancelAllocator()
	})
	if err := chromedp.Listen(ctx, b.note); err != nil {
		tb.Fatal(err)
	}
	b.run(chromedp.EmulateViewport(1400, 900))
	return b
}

// note keeps errors for noErrors.
func (b *browser) note(event any) {
	text := ""
	switch e := event.(type) {
	case *cdpruntime.EventExceptionThrown:
		text = fmt.Sprintf("exception: %+v", e.ExceptionDetails)
	case *log.EventEntryAdded:
		if e.Entry.Level == "error" {
			text = e.Entry.Text + " " + e.Entry.URL
		}
	case *page.EventJavascriptDialogOpening:
		text = "dialog: " + e.Message
	}
	if text == "" {
		return
	}
	select {
	case b.messages <- text:
	default:
	}
}

// run does actions, which have pageTimeout together.
func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, pageTimeout)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.tb.Fatalf("%v\nthe page has:\n%s", err, b.text())
	}
}

// evaluate returns the value of an expression.
func evaluate[T any](b *browser, expression string) T {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, pageTimeout)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.tb.Fatalf("%s: %v", expression, err)
	}
	return value
}

// text is what the page shows.
func (b *browser) text() string {
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	text, _ := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
	return text
}

// until waits until an expression is true. chromedp.Poll would need eval in the page, which its
// policy does not allow.
func (b *browser) until(expression string) {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, pageTimeout)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		// A page that is being replaced has no value.
		if is, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")")); err == nil && is {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			b.tb.Fatalf("it never became true: %s\nthe page has:\n%s", expression, b.text())
		}
	}
}

const isLive = `document.documentElement.dataset.updates > 0`

// open follows the link of a dashboard.
func (b *browser) open(link string) {
	b.tb.Helper()
	b.run(chromedp.Navigate(link))
	b.until(isLive)
}

// visit opens a page below the first one.
func (b *browser) visit(path string) {
	b.tb.Helper()
	base := evaluate[string](b, `document.querySelector(".brand").href`)
	b.run(chromedp.Navigate(base + path))
	b.until(isLive)
}

// shows waits until the page has a text.
func (b *browser) shows(text string) {
	b.tb.Helper()
	b.until(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// lacks waits until the page has a text no more.
func (b *browser) lacks(text string) {
	b.tb.Helper()
	b.until(fmt.Sprintf("!document.body.innerText.includes(%q)", text))
}

// noErrors fails if the page caused errors, such as scripts or styles that the policy rejects.
func (b *browser) noErrors() {
	b.tb.Helper()
	for {
		select {
		case text := <-b.messages:
			b.tb.Error("the browser reports: ", text)
		default:
			return
		}
	}
}

// look sets width and colours.
func (b *browser) look(width int64, scheme string) {
	b.tb.Helper()
	b.run(chromedp.EmulateViewport(width, 900), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	}))
}

// screenshot writes a picture of the whole page: to docs/images if the flag -update is set, else to
// a directory of the test.
func (b *browser) screenshot(name string) {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, pageTimeout)
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.tb.Fatal(err)
	}
	dir := b.tb.TempDir()
	if *update {
		dir = filepath.Join("docs", "images")
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644)); err != nil {
		b.tb.Fatal(err)
	}
}
