package dashboard_test

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func inNamespace(name string) client.ListOption { return client.InNamespace(name) }

// link is a network between two programs that can be cut.
type link struct {
	net.Listener
	mu    sync.Mutex
	isCut bool
	open  map[net.Conn]bool
}

func newLink(tb testing.TB) *link {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return &link{Listener: l, open: map[net.Conn]bool{}}
}

// Accept implements net.Listener: of a link that is cut, connections are closed at once.
func (l *link) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		if l.isCut {
			_ = conn.Close()
			l.mu.Unlock()
			continue
		}
		l.open[conn] = true
		l.mu.Unlock()
		return conn, nil
	}
}

func (l *link) set(isCut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isCut = isCut
	for conn := range l.open {
		_ = conn.Close()
	}
	clear(l.open)
}

// serve serves a handler at the link until the test ends.
func (l *link) serve(tb testing.TB, handler http.Handler) {
	tb.Helper()
	s := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(l)
	}()
	tb.Cleanup(func() {
		_ = s.Close()
		l.set(true)
		<-ended
	})
}

// TestBrowserReconnects: the page says that the connection to the program is lost, and continues.
func TestBrowserReconnects(t *testing.T) {
	f := newFleet(t)
	f.example()
	network := newLink(t)
	transport := &http.Transport{DisableKeepAlives: true}
	network.serve(t, &httputil.ReverseProxy{
		FlushInterval: -1, Transport: transport, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = &url.URL{Scheme: "http", Host: r.In.Host, Path: r.In.URL.Path, RawPath: r.In.URL.RawPath, RawQuery: r.In.URL.RawQuery}
		},
	})
	b := newBrowser(t, chromedp.ProxyServer("http://"+network.Addr().String()), chromedp.Flag("proxy-bypass-list", "<-loopback>"))
	b.open(start(t, server, "default"))
	b.shows("Live")
	network.set(true)
	b.shows("No connection to keyferry dashboard")
	f.health("oslo", targetOptions{reason: "Unreachable", message: "no route to oslo"})
	network.set(false)
	b.shows("no route to oslo")
	b.lacks("No connection to keyferry dashboard")
}

// TestAPIServerReconnects: the page says that the API server does not answer, keeps what it has,
// and continues.
func TestAPIServerReconnects(t *testing.T) {
	f := newFleet(t)
	f.example()
	network := newLink(t)
	to, err := url.Parse(server.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(server)
	if err != nil {
		t.Fatal(err)
	}
	network.serve(t, &httputil.ReverseProxy{FlushInterval: -1, Transport: transport, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }})
	b := newBrowser(t)
	b.open(start(t, &rest.Config{Host: "http://" + network.Addr().String(), QPS: 1000, Burst: 1000}, "default"))
	b.shows("6 targets ready")
	network.set(true)
	b.shows("No connection to the API server")
	b.shows("6 targets ready")
	f.health("oslo", targetOptions{reason: "Unreachable", message: "no route to oslo"})
	network.set(false)
	b.shows("no route to oslo")
	b.lacks("No connection to the API server")
	b.noErrors()
}
