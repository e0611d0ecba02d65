package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const forwardUser, forwardPassword = "user", "forward-password"

// forward is an HTTP or SOCKS proxy between the refresher's proxy and targets. It sees only their
// addresses and its own password.
type forward struct {
	t   *testing.T
	url *url.URL
	// password says that it wants one.
	password bool

	mu sync.Mutex
	// asked are the addresses that it was asked for, and shown what it was told besides that it had no
	// need to know.
	asked []string
	shown []string
}

// forwards are all kinds of proxies that a Target may have.
var forwards = map[string]func(t *testing.T) *forward{
	"http":                     func(t *testing.T) *forward { return newHTTPForward(t, false, false) },
	"http with a password":     func(t *testing.T) *forward { return newHTTPForward(t, false, true) },
	"https with a password":    func(t *testing.T) *forward { return newHTTPForward(t, true, true) },
	"socks5":                   func(t *testing.T) *forward { return newSOCKSForward(t, "socks5", false) },
	"socks5 with a password":   func(t *testing.T) *forward { return newSOCKSForward(t, "socks5", true) },
	"socks5h, which is socks5": func(t *testing.T) *forward { return newSOCKSForward(t, "socks5h", false) },
}

// everyForward runs a test with a world whose target is behind a proxy and requests a client
// certificate.
func everyForward(t *testing.T, handler http.HandlerFunc, test func(t *testing.T, w *world, f *forward)) {
	certificate, key := keyPair(t)
	for name, start := range forwards {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			w, server := newWorld(t, handler)
			target := w.target(server, "target-token")
			target.ServerName, target.Certificate, target.Key, target.Proxy = "example.com", certificate, key, f.url
			if err := target.Check(); err != nil {
				t.Fatal(err)
			}
			w.proxy.Set(target)
			test(t, w, f)
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.asked) == 0 || len(f.shown) > 0 {
				t.Errorf("the proxy was asked for %q and shown %q", f.asked, f.shown)
			}
			for _, address := range f.asked {
				if address != target.Server.Host {
					t.Errorf("the proxy was asked for %s", address)
				}
			}
		})
	}
}

func TestForwardProxies(t *testing.T) {
	everyForward(t, func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(rw, r.Proto, " ", r.Header.Get("Authorization"), " ", r.TLS.PeerCertificates[0].Subject.CommonName, " ", string(body))
	}, func(t *testing.T, w *world, _ *forward) {
		for _, http2 := range []bool{false, true} {
			const want = "HTTP/2.0 Bearer target-token Keyferry proxy of this Pod body"
			if code, got := w.do(w.client(http2), w.request(http.MethodPost, "/api", strings.NewReader("body"))); code != http.StatusOK || got != want {
				t.Errorf("%d %q, want %q", code, got, want)
			}
		}
	})
}

func TestWatchThroughForwardProxies(t *testing.T) {
	more := make(chan string)
	everyForward(t, func(rw http.ResponseWriter, r *http.Request) {
		for {
			_ = http.NewResponseController(rw).Flush()
			select {
			case event := <-more:
				fmt.Fprintln(rw, event)
			case <-r.Context().Done():
				more <- "gone"
				return
			}
		}
	}, func(t *testing.T, w *world, _ *forward) {
		response, err := w.client(true).Do(w.request(http.MethodGet, "/api?watch=true", http.NoBody))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(response.Body)
		for i := range 3 {
			event := "event " + strconv.Itoa(i)
			more <- event
			if line, err := lines.ReadString('\n'); line != event+"\n" {
				t.Fatalf("%q %v", line, err)
			}
		}
		response.Body.Close()
		if got := <-more; got != "gone" {
			t.Errorf("the target got %q", got)
		}
	})
}

func TestUpgradeThroughForwardProxies(t *testing.T) {
	everyForward(t, upgrading, func(t *testing.T, w *world, _ *forward) {
		for _, protocol := range upgrades {
			w.wantUpgrade(t, protocol)
		}
	})
}

// TestForwardProxyRefuses checks that the error shows which of the two servers failed, and no
// password.
func TestForwardProxyRefuses(t *testing.T) {
	for name, start := range forwards {
		if !strings.HasSuffix(name, "with a password") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			f := start(t)
			w, server := newWorld(t, func(http.ResponseWriter, *http.Request) {})
			target := w.target(server, "target-token")
			wrong := *f.url
			wrong.User = url.UserPassword(forwardUser, "wrong-password")
			target.ServerName, target.Proxy = "example.com", &wrong
			w.proxy.Set(target)
			code, body := w.get(w.client(true), "/api")
			if code != http.StatusBadGateway || !strings.Contains(body, "cannot be reached") || strings.Contains(body, "wrong-password") {
				t.Errorf("%d %s", code, body)
			}
			if seen := w.seen(); len(seen) > 0 {
				t.Error("the target was reached")
			}
		})
	}
}

// note records a requested address, and what the client sent with it.
func (f *forward) note(address string, shown ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.shown = append(f.asked, address), append(f.shown, shown...)
}

// newHTTPForward returns a proxy that serves CONNECT.
func newHTTPForward(t *testing.T, secure, password bool) *forward {
	t.Helper()
	f := &forward{t: t, password: password}
	server := httptest.NewUnstartedServer(http.HandlerFunc(f.connect))
	server.Config.ErrorLog = discard()
	if secure {
		server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert}
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	f.url = mustParse(t, server.URL)
	if password {
		f.url.User = url.UserPassword(forwardUser, forwardPassword)
	}
	return f
}

func (f *forward) connect(rw http.ResponseWriter, r *http.Request) {
	given := r.Header.Get("Proxy-Authorization")
	switch want := "Basic " + base64.StdEncoding.EncodeToString([]byte(forwardUser+":"+forwardPassword)); {
	case f.password && given != want:
		rw.WriteHeader(http.StatusProxyAuthRequired)
		return
	case !f.password && given != "":
		f.note(r.Host, given)
	case r.Method != http.MethodConnect:
		f.note(r.Host, r.Method)
	}
	if credential := r.Header.Get("Authorization"); credential != "" {
		f.note(r.Host, credential)
	}
	if r.TLS != nil && (len(r.TLS.PeerCertificates) > 0 || r.TLS.ServerName == "example.com") {
		f.note(r.Host, "the target's client certificate or server name")
	}
	f.note(r.Host)
	here, _, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		f.t.Error(err)
		return
	}
	_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
	f.tunnel(here, r.Host)
}

// tunnel copies in both directions until one end is closed.
func (f *forward) tunnel(here net.Conn, address string) {
	defer here.Close()
	there, err := new(net.Dialer).DialContext(context.Background(), "tcp", address)
	if err != nil {
		f.t.Error(err)
		return
	}
	go func() {
		defer there.Close()
		_, _ = io.Copy(there, here)
	}()
	_, _ = io.Copy(here, there)
}

// newSOCKSForward returns a SOCKS 5 proxy (RFC 1928), with user and password (RFC 1929) or without.
func newSOCKSForward(t *testing.T, scheme string, password bool) *forward {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forward{t: t, password: password, url: &url.URL{Scheme: scheme, Host: listener.Addr().String()}}
	if password {
		f.url.User = url.UserPassword(forwardUser, forwardPassword)
	}
	var connections sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		connections.Wait()
	})
	connections.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				if address, err := f.negotiate(connection); err != nil {
					connection.Close()
				} else {
					f.note(address)
					f.tunnel(connection, address)
				}
			})
		}
	})
	return f
}

const (
	socksVersion                 = 5
	socksNoPassword, socksByUser = 0, 2
	socksIPv4, socksName         = 1, 3
	socksIPv6                    = 4
)

var errSOCKS = errors.New("not what a client says that knows the protocol and the password")

// negotiate returns the address that a client requests.
func (f *forward) negotiate(c net.Conn) (string, error) {
	methods, err := readCounted(c, socksVersion)
	if err != nil {
		return "", err
	}
	method := byte(socksNoPassword)
	if f.password {
		method = socksByUser
	}
	if bytes.IndexByte(methods, method) < 0 {
		_, _ = c.Write([]byte{socksVersion, 0xff})
		return "", errSOCKS
	}
	_, _ = c.Write([]byte{socksVersion, method})
	if f.password {
		if err := authenticate(c); err != nil {
			return "", err
		}
	}
	address, err := readAddress(c)
	if err == nil {
		_, err = c.Write([]byte{socksVersion, 0, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
	}
	return address, err
}

func authenticate(c net.Conn) error {
	user, err := readCounted(c, 1)
	if err != nil {
		return err
	}
	password, err := readCounted(c)
	if err != nil {
		return err
	}
	if string(user) != forwardUser || string(password) != forwardPassword {
		_, _ = c.Write([]byte{1, 1})
		return errSOCKS
	}
	_, err = c.Write([]byte{1, 0})
	return err
}

// readCounted reads the expected first bytes, a count, and that many bytes.
func readCounted(r io.Reader, first ...byte) ([]byte, error) {
	head := make([]byte, len(first)+1)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	if !bytes.Equal(head[:len(first)], first) {
		return nil, errSOCKS
	}
	rest := make([]byte, head[len(first)])
	_, err := io.ReadFull(r, rest)
	return rest, err
}

func readAddress(r io.Reader) (string, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	var host []byte
	var err error
	switch size := map[byte]int{socksIPv4: 4, socksIPv6: 16}[head[3]]; {
	case head[0] != socksVersion || head[1] != 1:
		return "", errSOCKS
	case head[3] == socksName:
		host, err = readCounted(r)
	default:
		host = make([]byte, size)
		_, err = io.ReadFull(r, host)
	}
	var port [2]byte
	if err == nil {
		_, err = io.ReadFull(r, port[:])
	}
	name := string(host)
	if address, ok := netip.AddrFromSlice(host); ok && head[3] != socksName {
		name = address.String()
	}
	return net.JoinHostPort(name, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))), err
}
