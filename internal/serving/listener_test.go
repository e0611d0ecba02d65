package serving

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/go-logr/logr"
)

// pipes is a listener of connections in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if connection, ok := <-p; ok {
		return connection, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return address("10.0.0.100:443") }

func (p pipes) dial(from string) (client net.Conn) {
	client, server := net.Pipe()
	p <- addressed{server, address(from)}
	return client
}

type addressed struct {
	net.Conn

	from address
}

func (a addressed) RemoteAddr() net.Addr { return a.from }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

func TestClosedConnectionsDoNotCount(t *testing.T) {
	inner := make(pipes)
	listener := newPerIPListener(inner, 1, 1)
	for range 3 {
		go inner.dial("10.0.0.1:1")
		connection, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = connection.Close()
		_ = connection.Close() // twice counts once
	}
	if open := len(listener.open); open != 0 {
		t.Errorf("%d addresses are kept", open)
	}
	_ = inner.Close()
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// sent keeps what a client writes, and sends nothing.
type sent struct {
	net.Conn

	bytes []byte
}

func (s *sent) Write(p []byte) (int, error) { s.bytes = append(s.bytes, p...); return len(p), nil }
func (s *sent) Read([]byte) (int, error)    { return 0, io.EOF }

// TestUnfinishedHandshakeMessages: crypto/tls reads up to 256 KiB of a certificate that a client
// sends, and keeps this in memory until the certificate is complete.
func TestUnfinishedHandshakeMessages(t *testing.T) {
	hello := new(sent)
	_ = tls.Client(hello, &tls.Config{ServerName: "example.com", MaxVersion: tls.VersionTLS12}).HandshakeContext(t.Context())
	synctest.Test(t, func(t *testing.T) {
		listener := make(pipes)
		server, err := New(Config{Listener: listener, Handler: http.NotFoundHandler(), TLS: &tls.Config{Certificates: certificates(t), MinVersion: tls.VersionTLS12}, Limits: testLimits(), Log: logr.Discard()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- server.Start(ctx) }()
		client := listener.dial("10.0.0.1:1")
		go func() { _, _ = io.Copy(io.Discard, client) }()
		if _, err := client.Write(hello.bytes); err != nil {
			t.Fatal(err)
		}
		const record = 1 << 14
		message := append([]byte{22, 3, 3, record >> 8, record & 0xff}, make([]byte, record)...)
		copy(message[5:], []byte{11, 3, 0xff, 0xff}) // a certificate of 256 KiB
		written := 0
		for range 15 {
			n, err := client.Write(message)
			if written += n; err != nil {
				break
			}
			copy(message[5:], make([]byte, 4))
		}
		if limit := handshakeBytes + testLimits().HeaderBytes; written > limit {
			t.Errorf("the server has read %d bytes of a handshake, want at most %d", written, limit)
		}
		_ = client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestBytesOfAConnection: after the body of a request, a client can send no more than the header
// of the next one.
func TestBytesOfAConnection(t *testing.T) {
	const idleBytes, body = 100, 800
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	go func() { _, _ = client.Write(make([]byte, 10*body)) }()
	c := &countedConn{Conn: server, remove: func() {}, idleBytes: idleBytes}
	c.expectHeader()
	read := func(want int64) {
		t.Helper()
		if n, err := io.Copy(io.Discard, c); n != want || !errors.Is(err, errTooManyBytes) {
			t.Errorf("%d bytes are read, want %d: %v", n, want, err)
		}
	}
	read(idleBytes)
	c.expectBody(body)
	read(body + body/8)
	onState(tls.Server(c, nil), http.StateActive)
	read(0)
	c.expectBody(body) // another body, which the client does not send
	onState(tls.Server(c, nil), http.StateIdle)
	read(idleBytes)
}
