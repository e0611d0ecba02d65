package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyferry/keyferry/internal/testenv"
)

const (
	listSize   = 20e6
	objectSize = 4 << 10
)

// newTarget returns a server that answers as fast as Go can: an object, a list, and watches that
// last.
func newTarget(b *testing.B) *httptest.Server {
	b.Helper()
	object, list := bytes.Repeat([]byte("o"), objectSize), bytes.Repeat([]byte("l"), listSize)
	target := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.Contains(r.URL.RawQuery, "watch=1"):
			_, _ = w.Write(object)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case r.URL.Path == "/api/v1/pods":
			_, _ = w.Write(list)
		default:
			_, _ = w.Write(object)
		}
	}))
	target.EnableHTTP2 = true
	target.StartTLS()
	b.Cleanup(target.Close)
	return target
}

// way is one to the target.
type way struct {
	process *process // what is in between; nil if nothing is
	base    string
	token   string
	roots   *x509.CertPool
}

// client has connections of its own, made as client-go makes them.
func (w way) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 25, DisableCompression: true,
	}}
}

func (w way) get(ctx context.Context, client *http.Client, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+w.token)
	return client.Do(request)
}

// fetch gets a path as client-go does, and returns how much there is.
func (w way) fetch(b *testing.B, client *http.Client, path string) int64 {
	response, err := w.get(b.Context(), client, path)
	if err != nil {
		b.Error(err)
		return 0
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		b.Errorf("code %d: %v", response.StatusCode, err)
	}
	return int64(len(body))
}

func poolOf(pem []byte) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// ways are to the target itself, through the refresher, and through kubectl proxy.
func ways(b *testing.B) map[string]func(*testing.B) way {
	target, refresher := newTarget(b), build(b, "refresher")
	ca := certificateOf(target)
	return map[string]func(*testing.B) way{
		"direct": func(*testing.B) way { return way{base: target.URL, roots: poolOf(ca)} },
		"keyferry": func(b *testing.B) way {
			f := newBroker(b)
			f.target, f.ca = target.URL, ca
			f.life.Store(int64(24 * time.Hour))
			p := runPod(b, refresher, f, true)
			token, err := os.ReadFile(filepath.Join(p.credentials, "token"))
			must(b, err)
			own, err := os.ReadFile(filepath.Join(p.credentials, "ca.crt"))
			must(b, err)
			return way{p.process, "https://" + p.proxy, string(token), poolOf(own)}
		},
		"kubectl": func(b *testing.B) way {
			config := clientcmdapi.NewConfig()
			config.Clusters["x"] = &clientcmdapi.Cluster{Server: target.URL, CertificateAuthorityData: ca}
			config.AuthInfos["x"] = &clientcmdapi.AuthInfo{Token: "token"}
			config.Contexts["x"] = &clientcmdapi.Context{Cluster: "x", AuthInfo: "x"}
			config.CurrentContext = "x"
			file, address := filepath.Join(b.TempDir(), "kubeconfig"), free(b)
			must(b, clientcmd.WriteToFile(*config, file))
			_, port, err := net.SplitHostPort(address)
			must(b, err)
			p := run(b, []string{"KUBECONFIG=" + file}, filepath.Join(testenv.Assets(), "kubectl"), "proxy", "--port="+port)
			until(b, "kubectl proxy's start", func() bool {
				connection, err := new(net.Dialer).DialContext(b.Context(), "tcp", address)
				if err == nil {
					connection.Close()
				}
				return err == nil
			})
			return way{process: p, base: "http://" + address}
		},
	}
}

// BenchmarkProxy compares ways to a target. Each benchmark has a proxy of its own.
func BenchmarkProxy(b *testing.B) {
	all := ways(b)
	for _, measure := range []struct {
		name string
		run  func(*testing.B, way)
	}{{"latency", latency}, {"requests", requests}, {"list", list}, {"watches200", watches(200)}, {"watches1000", watches(1000)}, {"hour", hour}} {
		for _, name := range []string{"direct", "kubectl", "keyferry"} {
			b.Run(measure.name+"/"+name, func(b *testing.B) {
				w := all[name](b)
				w.fetch(b, w.client(), "/warm")
				for range b.N {
					measure.run(b, w)
				}
			})
		}
	}
}

// latency is that of one request after the other, through one connection.
func latency(b *testing.B, w way) {
	client := w.client()
	var took []time.Duration
	for begin := time.Now(); time.Since(begin) < time.Second; {
		start := time.Now()
		w.fetch(b, client, "/api/v1/namespaces/default/pods/web")
		took = append(took, time.Since(start))
	}
	b.ReportMetric(percentile(took, 50), "p50-sec")
	b.ReportMetric(percentile(took, 99), "p99-sec")
}

// requests come through 50 connections, which are open before, as many as can be answered.
func requests(b *testing.B, w way) {
	const path = "/api/v1/namespaces/default/pods/web"
	clients := make([]*http.Client, 50)
	for i := range clients {
		clients[i] = w.client()
		w.fetch(b, clients[i], path)
	}
	var count atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for _, client := range clients {
		all.Go(func() {
			for ; time.Since(begin) < 2*time.Second; count.Add(1) {
				w.fetch(b, client, path)
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(count.Load())/time.Since(begin).Seconds(), "requests/s")
}

// list is a large one, again and again.
func list(b *testing.B, w way) {
	client := w.client()
	before := w.cpu()
	var sum int64
	begin := time.Now()
	for time.Since(begin) < 2*time.Second {
		sum += w.fetch(b, client, "/api/v1/pods")
	}
	b.ReportMetric(float64(sum)/time.Since(begin).Seconds(), "B/s")
	if w.process != nil {
		b.ReportMetric((w.cpu()-before).Seconds()/(float64(sum)/1e9), "cpu-sec/GB")
	}
}

func (w way) cpu() time.Duration {
	if w.process == nil {
		return 0
	}
	return w.process.cpu()
}

// watches have sent something, and are open.
func watches(n int) func(*testing.B, way) {
	return func(b *testing.B, w way) {
		if w.process == nil {
			b.Skip("nothing is in between")
		}
		ctx, cancel := context.WithCancel(b.Context())
		client := w.client()
		defer client.CloseIdleConnections()
		defer cancel()
		for range n {
			response, err := w.get(ctx, client, "/api/v1/pods?watch=1")
			must(b, err)
			_, err = io.ReadFull(response.Body, make([]byte, objectSize))
			must(b, err)
		}
		pause(b, time.Second)
		resident, _ := w.process.memory()
		b.ReportMetric(resident, "rss-MiB")
	}
}

// hour is what a busy controller may ask in one: ten requests a second, and a large list a minute.
func hour(b *testing.B, w way) {
	if w.token == "" {
		b.Skip("it is about ours")
	}
	client := w.client()
	var early float64
	for minute := range 60 {
		for range 600 {
			w.fetch(b, client, "/api/v1/namespaces/default/pods/web")
		}
		w.fetch(b, client, "/api/v1/pods")
		if minute == 5 {
			early, _ = w.process.memory()
		}
	}
	late, _ := w.process.memory()
	b.ReportMetric(early, "early-MiB")
	b.ReportMetric(late, "late-MiB")
}
