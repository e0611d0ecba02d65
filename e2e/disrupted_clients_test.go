//go:build long

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	openWatches = 1000
	// calm is how long nothing must go wrong until a disruption counts as over.
	calm = 10 * time.Second
)

// disruptedPod has two clients: one that makes requests, and one with a thousand watches.
type disruptedPod struct {
	*corev1.Pod
	delivery string
	// said is what each container was heard to say: with the containers that a kubelet restarts, what
	// they said may be gone.
	said map[string][]report
}

// TestDisruptions measures what a client sees, with each delivery, of what may happen to a target,
// and writes the table of docs/disruptions.md. It fails where a client does not find its way back.
func TestDisruptions(t *testing.T) {
	if suite.pair.Management.Kind == "" || suite.pair.Target.Kind == "" {
		t.Skip("it needs the nodes of both clusters")
	}
	tn := newTenant(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	host, authority := forward(t, ns)
	next := selfMade(t, host)
	both := together(t, authority, base64.StdEncoding.EncodeToString(next.authority))
	pods := tn.startDisrupted(t, ns)
	target := tn.beat(t)

	waitForCalm(t, pods, time.Now())
	var rows, costs [][]string
	for _, p := range pods {
		costs = append(costs, append([]string{p.delivery}, p.sidecarUses(t)...))
	}
	measure := func(what string, disrupt func()) {
		t.Helper()
		start := time.Now()
		disrupt()
		waitForCalm(t, pods, start)
		for _, p := range pods {
			row := append([]string{what, target.away(start), p.delivery}, p.sawSince(t, start)...)
			t.Log(strings.Join(row, " | "))
			rows = append(rows, row)
		}
	}
	measure("restart of the API server", func() { onNode(t, suite.pair.Target, "pkill -x kube-apiserver") })
	measure("network cut of 30 s", func() { onNode(t, suite.pair.Management, cut(t, tn.Server)) })
	measure("move to another address", func() {
		tn.applyTargetCluster(t, endpointOf(host, both))
		tn.waitFor(t, "Reachable", "True")
		for _, p := range pods {
			p.follows(t, host)
		}
	})
	measure("rotation of the CA", func() {
		next.forward(t, ns, "forward-next")
		replaceForwarder(t, ns, "forward", "forward-next")
	})
	writeTable(t, "disruptions.md", "watches", table([]string{"delivery", "memory of the sidecar", "CPU of the sidecar"}, costs))
	writeTable(t, "disruptions.md", "disruptions",
		table([]string{"disruption", "target not available for", "delivery", "failed requests", "longest time without an answer", "ended watches", "time until all watches receive events again", "restarts of the application"}, rows))
}

// sidecarUses is the memory and the processor time that the Pod's sidecar takes now, as its kubelet
// says.
func (p disruptedPod) sidecarUses(t *testing.T) []string {
	t.Helper()
	var summary struct {
		Pods []struct {
			PodRef     struct{ UID types.UID }
			Containers []struct {
				Name   string
				CPU    struct{ UsageNanoCores int64 }
				Memory struct{ WorkingSetBytes int64 }
			}
		}
	}
	out := suite.management.kubectl(t, "get", "--raw", "/api/v1/nodes/"+p.Spec.NodeName+"/proxy/stats/summary")
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		t.Fatal(err)
	}
	for _, pod := range summary.Pods {
		for _, c := range pod.Containers {
			if pod.PodRef.UID == p.UID && c.Name == "keyferry-refresher" {
				return []string{fmt.Sprintf("%d MiB", c.Memory.WorkingSetBytes>>20), fmt.Sprintf("%d m", c.CPU.UsageNanoCores/1e6)}
			}
		}
	}
	t.Fatalf("the kubelet says nothing of the sidecar of Pod %s", p.Name)
	return nil
}

// startDisrupted starts a Pod with each delivery.
func (tn tenant) startDisrupted(t *testing.T, ns string) []disruptedPod {
	t.Helper()
	var pods []disruptedPod
	for _, delivery := range []string{"direct", "proxy"} {
		suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata:
  name: {{.Delivery}}
  namespace: {{.NS}}
  annotations:
    keyferry.dev/cluster: fleet/{{.Target}}
    keyferry.dev/delivery: {{.Delivery}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: client, image: {{.Image}}}
  - {name: watches, image: {{.Image}}, args: [-watches={{.Watches}}]}
`, map[string]any{"NS": ns, "Delivery": delivery, "Target": tn.Target, "Image": suite.clientImage, "Watches": openWatches})
		tn.works(t, ns, delivery, "client")
		pod := &corev1.Pod{}
		if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: delivery}, pod); err != nil {
			t.Fatal(err)
		}
		pods = append(pods, disruptedPod{pod, delivery, map[string][]report{}})
	}
	return pods
}

// pulse is when the target was there.
type pulse struct {
	mu    sync.Mutex
	times []time.Time
}

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.times = append(p.times, time.Now())
}

// away is the longest time without a beat since start.
func (p *pulse) away(start time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var longest time.Duration
	for i, at := range p.times[1:] {
		if at.After(start) {
			longest = max(longest, at.Sub(p.times[i]))
		}
	}
	if longest < 3*time.Second {
		return "no"
	}
	return fmt.Sprintf("%.0f s", longest.Seconds())
}

// beat has something happen in the target each second until the test ends, for watches to hear of,
// and returns when it did.
func (tn tenant) beat(t *testing.T) *pulse {
	t.Helper()
	p := new(pulse)
	namespace := &corev1.Namespace{}
	namespace.Name = tn.Namespace
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for n := 0; ; n++ {
			patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"annotations":{"e2e/beat":"%d"}}}`, n))
			if suite.target.Patch(t.Context(), namespace.DeepCopy(), patch) == nil { // an API server that is restarted refuses it
				p.beat()
			}
			select {
			case <-t.Context().Done():
				return
			case <-tick.C:
			}
		}
	}()
	t.Cleanup(func() { <-done })
	return p
}

// cut is a command by which nothing gets from Pods to a server, or back, for 30 seconds.
func cut(t *testing.T, server string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	return "set -e\nip=$(getent ahostsv4 " + u.Hostname() + " | head -n 1 | cut -d ' ' -f 1)\n" +
		"for change in -I -D; do iptables -w $change FORWARD -s $ip -j DROP; iptables -w $change FORWARD -d $ip -j DROP; [ $change = -D ] || sleep 30; done"
}

// follows waits until the Pod's requests go to a host: the application's own, or those of its
// proxy.
func (p disruptedPod) follows(t *testing.T, host string) {
	t.Helper()
	eventually(t, 3*time.Minute, "Pod "+p.Name+" follows", func() error {
		p.history(t, "client")
		p.history(t, "watches")
		if p.delivery == "proxy" {
			if !strings.Contains(refresherLog(t, p.Pod), `"endpoint":"https://`+host) {
				return errors.New("its proxy does not know the new address yet")
			}
			return nil
		}
		last, err := lastReport(t, p.Pod, "client")
		if err == nil && !strings.Contains(last.Host, host) {
			err = fmt.Errorf("it is at %s", last.Host)
		}
		return err
	})
}

// waitForCalm waits until all clients have had nothing to complain of for a while, which begins
// after start.
func waitForCalm(t *testing.T, pods []disruptedPod, start time.Time) {
	t.Helper()
	for _, p := range pods {
		eventually(t, 5*time.Minute, "Pod "+p.Name+" is well", func() error {
			requests, watches := p.history(t, "client"), p.history(t, "watches")
			if len(requests) == 0 || len(watches) == 0 {
				return errors.New("it has not said anything")
			}
			last, lastHeard := requests[len(requests)-1], watches[len(watches)-1]
			if last.Time.Sub(start) < calm || lastHeard.Time.Sub(start) < calm {
				return errors.New("not yet")
			}
			for _, r := range since(requests, last.Time.Add(-calm)) {
				if r.Failures != last.Failures {
					return fmt.Errorf("requests failed: %s", last.LastError)
				}
			}
			for _, r := range since(watches, lastHeard.Time.Add(-calm)) {
				if r.Hearing != openWatches {
					return fmt.Errorf("%d of %d watches hear; %s", r.Hearing, openWatches, r.LastError)
				}
			}
			return nil
		})
	}
}

// sawSince is the end of a row of the table: what the Pod's clients saw since start.
func (p disruptedPod) sawSince(t *testing.T, start time.Time) []string {
	t.Helper()
	var failures, ended, restarts int
	var silence, deaf time.Duration
	requests := since(p.history(t, "client"), start.Add(-2*time.Second))
	answered := requests[0].Time
	for i, r := range requests[1:] {
		before := requests[i]
		if r.Requests < before.Requests {
			restarts++
			before = report{}
		}
		failures += r.Failures - before.Failures
		if r.Requests-r.Failures > before.Requests-before.Failures {
			silence = max(silence, r.Time.Sub(answered))
			answered = r.Time
		}
	}
	watches := since(p.history(t, "watches"), start.Add(-2*time.Second))
	for i, r := range watches[1:] {
		before := watches[i]
		if r.WatchesEnded < before.WatchesEnded || r.WatchEvents < before.WatchEvents {
			before = report{}
			ended += openWatches // those of the client that was restarted
		}
		ended += r.WatchesEnded - before.WatchesEnded
		if r.Hearing < openWatches {
			deaf = r.Time.Sub(start)
		}
	}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.0f s", d.Seconds()) }
	return []string{strconv.Itoa(failures), seconds(silence), strconv.Itoa(ended), seconds(deaf), strconv.Itoa(restarts)}
}

// history is all that a container was heard to say.
func (p disruptedPod) history(t *testing.T, container string) []report {
	t.Helper()
	said := p.said[container]
	for _, previous := range []bool{true, false} {
		found, err := reportsOf(t.Context(), p.Namespace, p.Name, &corev1.PodLogOptions{Container: container, Previous: previous})
		if err != nil {
			continue
		}
		for _, r := range found {
			if len(said) == 0 || r.Time.After(said[len(said)-1].Time) {
				said = append(said, r)
			}
		}
	}
	p.said[container] = said
	return said
}

// since are the reports that are not older than a time.
func since(all []report, start time.Time) []report {
	i := slices.IndexFunc(all, func(r report) bool { return !r.Time.Before(start) })
	return all[max(i, 0):]
}
