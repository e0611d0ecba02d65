// Podtools is what the end-to-end tests need inside a cluster: another address for an API server,
// sources of credentials, a check that a Service answers, a way to kill a Pod's processes as a
// failing node would, and a look at the processes that a container sees.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: podtools forward|source|await|kill-pod|snoop [flags]")
	}
	var err error
	switch os.Args[1] {
	case "forward":
		err = forward(os.Args[2:])
	case "source":
		err = serveSource(os.Args[2:])
	case "await":
		err = await(os.Args[2:])
	case "kill-pod":
		err = killPod(os.Args[2:])
	case "snoop":
		err = snoop(os.Args[2:])
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// forward serves another API server under its own address and certificate.
func forward(args []string) error {
	flags := flag.NewFlagSet("forward", flag.ExitOnError)
	listen := flags.String("listen", ":8443", "address to listen on")
	to := flags.String("to", "", "URL of the API server")
	dir := flags.String("dir", "/etc/forward", "folder with tls.crt and tls.key to serve with, and upstream.crt to verify the API server with")
	life := flags.Duration("token-life", 0, "how long tokens count that were asked for less than two hours (default: as long as the API server says)")
	_ = flags.Parse(args)

	upstream, err := url.Parse(*to)
	if err != nil {
		return err
	}
	bundle, err := os.ReadFile(filepath.Join(*dir, "upstream.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return errors.New("upstream.crt holds no certificate")
	}
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	drained, end := context.WithCancel(context.Background())
	defer end()
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		Transport: byUpgrade{
			plain:   endingWatches{&http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true}, drained},
			upgrade: &http.Transport{TLSClientConfig: config.Clone()},
		},
		FlushInterval: -1,
	}
	// For as long as some node may still lead new connections here they are served, and told that they
	// are the last ones.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{
		Addr: *listen, ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if ctx.Err() != nil {
				w.Header().Set("Connection", "close")
			}
			if *life > 0 && ended(r, *life, time.Now()) {
				unauthorized(w)
				return
			}
			proxy.ServeHTTP(w, r)
		}),
	}
	context.AfterFunc(ctx, func() {
		time.AfterFunc(5*time.Second, func() {
			end()
			ending, cancel := context.WithTimeout(context.Background(), 4*time.Second)
			defer cancel()
			_ = server.Shutdown(ending)
		})
	})
	return server.ListenAndServeTLS(filepath.Join(*dir, "tls.crt"), filepath.Join(*dir, "tls.key"))
}

// ended says whether the request's token is older than life, and was not meant to last for long.
func ended(r *http.Request, life time.Duration, now time.Time) bool {
	parts := strings.Split(r.Header.Get("Authorization"), ".")
	if len(parts) != 3 {
		return false
	}
	var claims struct {
		Issued int64 `json:"iat"`
		Ends   int64 `json:"exp"`
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &claims) != nil {
		return false
	}
	return claims.Ends-claims.Issued < 2*60*60 && now.After(time.Unix(claims.Issued, 0).Add(life))
}

// unauthorized answers as an API server does.
func unauthorized(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the token has ended","reason":"Unauthorized","code":401}`)
}

// byUpgrade sends what becomes another protocol, which HTTP/2 cannot, by HTTP/1.1.
type byUpgrade struct{ plain, upgrade http.RoundTripper }

func (b byUpgrade) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Upgrade") != "" {
		return b.upgrade.RoundTrip(r)
	}
	return b.plain.RoundTrip(r)
}

// endingWatches ends watches in good order at the end of stop, as an API server does when it shuts
// down.
type endingWatches struct {
	http.RoundTripper
	stop context.Context
}

func (e endingWatches) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := e.RoundTripper.RoundTrip(r)
	if err == nil && r.URL.Query().Has("watch") {
		stream := answer.Body
		answer.Body = &endingBody{ReadCloser: stream, stop: e.stop, detach: context.AfterFunc(e.stop, func() { _ = stream.Close() })}
	}
	return answer, err
}

type endingBody struct {
	io.ReadCloser
	stop   context.Context
	detach func() bool
}

func (b *endingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.stop.Err() != nil {
		err = io.EOF
	}
	return n, err
}

func (b *endingBody) Close() error {
	b.detach()
	return b.ReadCloser.Close()
}

// killPod sends SIGKILL to every process of a Pod, its sandbox included, from a Pod that shares the
// node's processes.
func killPod(args []string) error {
	flags := flag.NewFlagSet("kill-pod", flag.ExitOnError)
	uid := flags.String("uid", "", "UID of the Pod")
	_ = flags.Parse(args)
	if *uid == "" {
		return errors.New("--uid is missing")
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return err
	}
	killed := 0
	for _, file := range processes {
		cgroup, err := os.ReadFile(file)
		if err != nil || !ofPod(string(cgroup), *uid) {
			continue // it has ended meanwhile, or is another's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("killing process %d: %w", pid, err)
		}
		killed++
	}
	if killed == 0 {
		return fmt.Errorf("no process of Pod %s on this node", *uid)
	}
	log.Printf("killed %d processes", killed)
	return nil
}

// ofPod: the kubelet's cgroup drivers write a Pod's UID with dashes or with underscores.
func ofPod(cgroup, uid string) bool {
	return strings.Contains(cgroup, "pod"+uid) || strings.Contains(cgroup, "pod"+strings.ReplaceAll(uid, "-", "_"))
}
