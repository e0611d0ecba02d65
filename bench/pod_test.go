package bench

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyferry/keyferry/broker/wire"
)

// shortLife is that of credentials which are renewed all the time.
const shortLife = 2 * time.Second

// fakeBroker issues a new credential each time it is asked, over real TLS.
type fakeBroker struct {
	*httptest.Server

	// target is the https URL and ca the CA of what credentials are for.
	target string
	ca     []byte
	life   atomic.Int64 // of credentials, as a time.Duration
	issued atomic.Int64
}

func newBroker(b *testing.B) *fakeBroker {
	b.Helper()
	f := &fakeBroker{target: "https://192.0.2.1:6443"}
	f.Server = httptest.NewTLSServer(f)
	f.ca = certificateOf(f.Server)
	f.life.Store(int64(shortLife))
	b.Cleanup(f.Close)
	return f
}

func certificateOf(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func (f *fakeBroker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("If-None-Match") != "" {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	now, life, number := time.Now(), time.Duration(f.life.Load()), f.issued.Add(1)
	refreshAt := now.Add(life / 2)
	if life <= shortLife {
		refreshAt = now // as soon as a refresher asks again, which is after a second
	}
	w.Header().Set("ETag", `"`+strconv.FormatInt(number, 10)+`"`)
	answerJSON(w, wire.ExecCredential{
		APIVersion: wire.APIVersion, Kind: wire.Kind,
		Spec: wire.Spec{Cluster: wire.Cluster{Server: f.target, CertificateAuthorityData: f.ca, Config: wire.Config{
			Namespace: "default", IssuedAt: now, RefreshAt: refreshAt, Delivery: wire.DeliveryDirect,
		}}},
		Status: wire.Status{ExpirationTimestamp: now.Add(life), Token: "token-" + strconv.FormatInt(number, 10)},
	})
}

// pod is a refresher with its volumes.
type pod struct {
	*process

	credentials string
	proxy       string // its address; empty if it has none
}

// runPod starts a refresher and waits for its first credential.
func runPod(b *testing.B, program string, f *fakeBroker, proxied bool) *pod {
	b.Helper()
	dir := b.TempDir()
	p := &pod{credentials: filepath.Join(dir, "credentials")}
	identity := filepath.Join(dir, "identity")
	write(b, filepath.Join(identity, "token"), []byte("identity"))
	write(b, filepath.Join(identity, "ca.crt"), certificateOf(f.Server))
	args := []string{
		"run", "--broker=" + f.URL, "--target=fleet/tenant-1", "--identity-dir=" + identity, "--credentials-dir=" + p.credentials,
		"--termination-log=" + filepath.Join(dir, "termination-log"),
	}
	if proxied {
		p.proxy = free(b)
		must(b, os.Mkdir(filepath.Join(dir, "proxy"), 0o700))
		args = append(args, "--delivery=proxy", "--proxy-address="+p.proxy, "--proxy-dir="+filepath.Join(dir, "proxy"))
	}
	p.process = run(b, nil, program, args...)
	until(b, "the first credential", func() bool {
		_, err := os.Stat(filepath.Join(p.credentials, "token"))
		return err == nil
	})
	return p
}

func waitFor(b *testing.B, f *fakeBroker, issued int64) {
	for f.issued.Load() < issued {
		pause(b, 100*time.Millisecond)
	}
}

// BenchmarkRefresher is a sidecar as it runs in every Pod, once with delivery by proxy, which
// nothing uses. Both run side by side, since they renew once a second at most.
func BenchmarkRefresher(b *testing.B) {
	const renewals, last = 500, 100
	program := build(b, "refresher")
	info, err := os.Stat(program)
	must(b, err)
	type refresher struct {
		name   string
		broker *fakeBroker
		pod    *pod
		before time.Duration
	}
	all := []*refresher{{name: ""}, {name: "proxy-"}}
	for _, r := range all {
		r.broker = newBroker(b)
		r.pod = runPod(b, program, r.broker, r.name != "")
	}
	for range b.N {
		measured := func(r *refresher, from, to int64) {
			waitFor(b, r.broker, from)
			r.before = r.pod.cpu()
			waitFor(b, r.broker, to)
			b.ReportMetric((r.pod.cpu()-r.before).Seconds()/float64(to-from), r.name+"cpu-sec/renewal")
			r.broker.life.Store(int64(24 * time.Hour))
		}
		var both sync.WaitGroup
		for _, r := range all {
			both.Go(func() { measured(r, renewals-last, renewals) })
		}
		both.Wait()
		// After the next renewal, the next question comes in 45 seconds at the earliest.
		pause(b, 5*time.Second)
		for _, r := range all {
			r.before = r.pod.cpu()
		}
		pause(b, 30*time.Second)
		for _, r := range all {
			resident, dirty := r.pod.memory()
			b.ReportMetric(resident, r.name+"rss-MiB")
			b.ReportMetric(dirty, r.name+"dirty-MiB")
			b.ReportMetric((r.pod.cpu() - r.before).Seconds(), r.name+"idle-sec/30s")
		}
		b.ReportMetric(float64(info.Size()), "program-B")
		b.ReportMetric(float64(all[0].broker.issued.Load()), "renewals")
	}
}
