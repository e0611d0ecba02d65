package dashboard_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/cdproto/systeminfo"
	"github.com/chromedp/chromedp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/testenv"
)

const (
	scalePods    = 10_000
	scaleTargets = 200
	// rounds is how often a page is opened, and how often it is updated.
	rounds = 20
)

// BenchmarkScale measures the program and its pages with 10,000 Pods and 200 targets: the time
// until the browser paints a page, the time from the begin of a write at the API server until the
// browser has painted the change, and memory. `make bench-dashboard` runs it.
func BenchmarkScale(b *testing.B) {
	f := newFleet(b)
	f.scale()
	program := startProgram(b)
	page := newBrowser(b)
	page.open(program.link)
	report := func(b *testing.B, of string, all []float64) {
		b.Helper()
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], of+"-p50-ms")
		b.ReportMetric(all[len(all)-1], of+"-max-ms")
		b.ReportMetric(0, "ns/op") // it is that of the setup
	}
	for _, path := range []string{"", "targets/fleet/target-000", "pods/app-000/web-7d9c5b-00000", "expiry", "access", "events", "?q=web"} {
		b.Run("paint/"+cmp.Or(path, "targets"), func(b *testing.B) {
			page.tb = b
			var paints []float64
			for range rounds {
				page.visit(path)
				page.until(firstPaint)
				paints = append(paints, evaluate[float64](page, firstPaint))
			}
			report(b, "paint", paints)
		})
	}
	busy := func(ctx context.Context) {
		for i := 0; ctx.Err() == nil; i++ {
			_ = f.writePod("app-199", "busy", "fleet/target-199", podOptions{account: "web", waiting: "Waiting", message: strconv.Itoa(i)})
		}
	}
	for _, load := range []struct {
		name string
		run  func(context.Context)
	}{{"update", func(context.Context) {}}, {"update-while-pods-change", busy}} {
		ctx, stop := context.WithCancel(b.Context())
		var running sync.WaitGroup
		running.Go(func() { load.run(ctx) })
		for path, change := range f.changes() {
			b.Run(load.name+"/"+cmp.Or(path, "targets"), func(b *testing.B) {
				page.tb = b
				page.visit(path)
				var updates []float64
				for i := range rounds {
					text := fmt.Sprintf("%s-%d", load.name, i)
					write := change(text)
					page.run(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(painted, text)))
					begin := time.Now()
					f.must(write())
					at := evaluate[float64](page, "window.painted")
					updates = append(updates, at-float64(begin.UnixMicro())/1e3)
				}
				report(b, "update", updates)
			})
		}
		stop()
		running.Wait()
	}
	b.Run("memory", func(b *testing.B) {
		page.tb = b
		page.noErrors()
		heap, process := page.memory()
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(program.ready.Seconds(), "start-sec")
		b.ReportMetric(readMemory(b, fmt.Sprintf("/proc/%d/status", program.pid), "VmRSS"), "program-MB")
		b.ReportMetric(readMemory(b, fmt.Sprintf("/proc/%d/status", program.pid), "VmHWM"), "program-peak-MB")
		b.ReportMetric(heap, "page-heap-MB")
		b.ReportMetric(process, "page-process-MB")
	})
}

// firstPaint is the time from the begin of the navigation until the browser painted content, in
// milliseconds.
const firstPaint = `performance.getEntriesByName("first-contentful-paint")[0]?.startTime`

// painted makes window.painted a promise of the time at which the page had painted a text, in
// milliseconds of Unix time.
const painted = `{
	const text = %q;
	window.painted = new Promise((resolve) => {
		new MutationObserver((changes, observer) => {
			if (!document.getElementById("main").textContent.includes(text)) return;
			observer.disconnect();
			requestAnimationFrame(() => {
				const after = new MessageChannel(); // a task behind the frame
				after.port1.onmessage = () => resolve(performance.timeOrigin + performance.now());
				after.port2.postMessage(null);
			});
		}).observe(document.getElementById("main"), { subtree: true, childList: true, characterData: true });
	});
}`

// scale writes 200 targets, of which each has a CredentialRequest, two grants and 50 Pods.
func (f fleet) scale() {
	f.tb.Helper()
	f.namespaces("fleet")
	for i := range scaleTargets {
		name, namespace := fmt.Sprintf("target-%03d", i), fmt.Sprintf("app-%03d", i)
		f.namespaces(namespace)
		f.target(name, targetOptions{})
		f.grant(name, namespace, "web")
		f.grant(name, namespace, "robot")
		f.request(namespace, "ci", name, time.Hour)
		f.event(name, "Recovered", "the API server answers again", time.Minute)
	}
	pods := make(chan int)
	errs := make(chan error, scalePods)
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for i := range pods {
				namespace, target := fmt.Sprintf("app-%03d", i%scaleTargets), fmt.Sprintf("fleet/target-%03d", i%scaleTargets)
				errs <- f.writePod(namespace, fmt.Sprintf("web-7d9c5b-%05d", i), target, podOptions{account: "web", workload: "web"})
			}
		})
	}
	for i := range scalePods {
		pods <- i
	}
	close(pods)
	writers.Wait()
	close(errs)
	for err := range errs {
		f.must(err)
	}
}

// changes returns a function for pages that prepares a change. The function that it returns writes
// the change, after which the page shows the text.
func (f fleet) changes() map[string]func(text string) (write func() error) {
	return map[string]func(string) func() error{
		"": func(text string) func() error { // a target stops answering
			tc := &v1alpha1.TargetCluster{}
			f.must(f.Get(context.Background(), types.NamespacedName{Namespace: "fleet", Name: "target-100"}, tc))
			for i := range tc.Status.Conditions {
				if c := &tc.Status.Conditions[i]; c.Type == v1alpha1.ConditionReady {
					c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Unreachable", text
				}
			}
			return func() error { return f.Status().Update(context.Background(), tc) }
		},
		"targets/fleet/target-000": func(text string) func() error { // a Pod fails
			pod := &corev1.Pod{}
			f.must(f.Get(context.Background(), types.NamespacedName{Namespace: "app-000", Name: "web-7d9c5b-00000"}, pod))
			pod.Status.InitContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: text}}
			return func() error { return f.Status().Update(context.Background(), pod) }
		},
		"access": func(text string) func() error { // a permission is granted
			return func() error { return f.Create(context.Background(), binding("target-000", "aaa", text)) }
		},
	}
}

// program is a `keyferry dashboard` that runs.
type program struct {
	pid  int
	link string
	// ready is the time until it printed the link.
	ready time.Duration
}

// startProgram builds and starts the program, which runs until the benchmark ends.
func startProgram(b *testing.B) program {
	b.Helper()
	dir := b.TempDir()
	if out, err := exec.CommandContext(b.Context(), "tools/build", "v0.0.0-bench", dir, "./cmd/keyferry").CombinedOutput(); err != nil {
		b.Fatalf("building keyferry: %v\n%s", err, out)
	}
	cmd := exec.Command(dir+"/keyferry", "dashboard", "--browser=false")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+testenv.WriteKubeconfig(b, server, ""))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
			b.Error(err)
		}
	})
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if link := regexp.MustCompile(`http://127\.0\.0\.1:\d+/\S+`).FindString(lines.Text()); link != "" {
			return program{cmd.Process.Pid, link, time.Since(begin)}
		}
	}
	b.Fatal("keyferry dashboard prints no link")
	return program{}
}

// readMemory returns a line of a file of /proc/PID in MB.
func readMemory(tb testing.TB, file, key string) float64 {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err != nil {
				tb.Fatal(err)
			}
			return kib * 1024 / 1e6
		}
	}
	tb.Fatalf("%s has no line %s", file, key)
	return 0
}

// memory returns the heap of the page's scripts, and the memory of the browser's process for the
// page, in MB.
func (b *browser) memory() (heap, process float64) {
	b.tb.Helper()
	b.run(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		if _, err := cdp.Call(ctx, t, performance.Enable, performance.EnableParams{}); err != nil {
			return err
		}
		metrics, err := cdp.Call(ctx, t, performance.GetMetrics, cdp.Empty{})
		for _, m := range metrics.Metrics {
			if m.Name == "JSHeapUsedSize" {
				heap = m.Value / 1e6
			}
		}
		return err
	}))
	all, err := chromedp.CallBrowser(b.ctx, systeminfo.GetProcessInfo, cdp.Empty{})
	if err != nil {
		b.tb.Fatal(err)
	}
	for _, p := range all.ProcessInfo {
		if p.Type == "renderer" {
			process = max(process, readMemory(b.tb, fmt.Sprintf("/proc/%d/smaps_rollup", p.ID), "Pss"))
		}
	}
	return heap, process
}
