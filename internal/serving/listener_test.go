package serving

import (
	"errors"
	"net"
	"testing"
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

func (p pipes) dial(from string) {
	_, server := net.Pipe()
	p <- addressed{server, address(from)}
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
	listener := newPerIPListener(inner, 1)
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
