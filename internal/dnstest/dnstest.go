// Package dnstest gives tests a name whose address changes while the server at the old address
// still answers, as in a failover by DNS.
package dnstest

import (
	"context"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// host is a name in the certificate of httptest's servers.
const host = "example.com"

// Failover is a name with two HTTPS servers, which have the same certificate. The name resolves to
// the first server until Switch is called. Both servers run until the test ends.
type Failover struct {
	// URL is https://example.com, with a port unless the servers are in memory.
	URL string
	// CA verifies both servers, in PEM.
	CA []byte

	listeners [2]net.Listener
	switched  atomic.Bool
}

// Switch changes the address of the name to that of the second server.
func (f *Failover) Switch() { f.switched.Store(true) }

// FollowedAfter calls Switch, then ask once a second, and returns how long it takes until ask
// returns "new". It is for a synctest bubble.
func (f *Failover) FollowedAfter(t testing.TB, ask func() string) time.Duration {
	t.Helper()
	f.Switch()
	start := time.Now()
	for ask() != "new" {
		if time.Since(start) > time.Hour {
			t.Fatal("the old server still answers after an hour")
		}
		<-time.After(time.Second)
	}
	return time.Since(start)
}

// listener returns the listener of the server that the name resolves to.
func (f *Failover) listener() net.Listener {
	if f.switched.Load() {
		return f.listeners[1]
	}
	return f.listeners[0]
}

// Answer is a server that answers each request with a status code and a body.
func Answer(code int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	})
}

// New returns a Failover between two loopback addresses. It replaces net.DefaultResolver until t
// ends, so it is not for parallel tests.
func New(t testing.TB, first, second http.Handler) *Failover {
	t.Helper()
	listeners := [2]net.Listener{listen(t, "127.0.0.1:0")}
	address := netip.MustParseAddrPort(listeners[0].Addr().String())
	listeners[1] = listen(t, netip.AddrPortFrom(address.Addr().Next(), address.Port()).String())
	f := start(t, listeners, first, second)
	_, port, _ := net.SplitHostPort(address.String())
	f.URL = "https://" + net.JoinHostPort(host, port)
	before := net.DefaultResolver
	net.DefaultResolver = Resolver(func() netip.Addr { return netip.MustParseAddrPort(f.listener().Addr().String()).Addr() })
	t.Cleanup(func() { net.DefaultResolver = before })
	return f
}

// NewInMemory returns a Failover for a synctest bubble, where time passes only while every
// goroutine waits. Only DialContext reaches its servers.
func NewInMemory(t testing.TB, first, second http.Handler) *Failover {
	t.Helper()
	f := start(t, [2]net.Listener{newMemory(), newMemory()}, first, second)
	f.URL = "https://" + host
	return f
}

// DialContext connects to the server that the name resolves to. It is for a Failover in memory.
func (f *Failover) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	listener, ok := f.listener().(*memory)
	if !ok {
		return nil, errors.New("this Failover is not in memory")
	}
	return listener.dial(ctx)
}

func start(t testing.TB, listeners [2]net.Listener, handlers ...http.Handler) *Failover {
	t.Helper()
	f := &Failover{listeners: listeners}
	for i, handler := range handlers {
		server := httptest.NewUnstartedServer(handler)
		_ = server.Listener.Close()
		server.Listener = listeners[i]
		server.EnableHTTP2 = true
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		t.Cleanup(server.Close)
		f.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	}
	return f
}

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// Resolver returns a resolver for which example.com and the names below it have one IPv4 address.
// No other name exists.
func Resolver(address func() netip.Addr) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			_ = answer(server, address()) // an error means that the resolver has given up
		}()
		return client, nil
	}}
}

// answer answers one question, as over TCP.
func answer(connection net.Conn, address netip.Addr) error {
	var length [2]byte
	if _, err := io.ReadFull(connection, length[:]); err != nil {
		return err
	}
	question := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(connection, question); err != nil {
		return err
	}
	var message dnsmessage.Message
	if err := message.Unpack(question); err != nil {
		return err
	}
	message.Response, message.Additionals = true, nil
	if q := message.Questions[0]; q.Type == dnsmessage.TypeA && strings.HasSuffix("."+q.Name.String(), "."+host+".") {
		message.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.AResource{A: address.As4()},
		}}
	}
	packed, err := message.AppendPack(make([]byte, 2, 512))
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint16(packed, uint16(len(packed)-2)) //nolint:gosec // a message has a few dozen bytes
	_, err = connection.Write(packed)
	return err
}

// memory is a listener for connections in memory.
type memory struct {
	connections chan net.Conn
	ctx         context.Context //nolint:containedctx // the time that the listener is open
	close       context.CancelFunc
}

func newMemory() *memory {
	m := &memory{connections: make(chan net.Conn)}
	m.ctx, m.close = context.WithCancel(context.Background())
	return m
}

func (m *memory) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case m.connections <- server:
		return client, nil
	case <-m.ctx.Done():
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case connection := <-m.connections:
		return connection, nil
	case <-m.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error   { m.close(); return nil }
func (m *memory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }
