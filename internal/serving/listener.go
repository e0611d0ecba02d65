package serving

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// perIPListener limits the connections of each address. It closes further connections, so that a
// client cannot use all connections.
type perIPListener struct {
	net.Listener

	each int
	// idleBytes is countedConn.idleBytes.
	idleBytes int

	mu   sync.Mutex
	open map[string]int
}

func newPerIPListener(listener net.Listener, each, idleBytes int) *perIPListener {
	return &perIPListener{Listener: listener, each: each, idleBytes: idleBytes, open: map[string]int{}}
}

// Accept implements net.Listener.
func (l *perIPListener) Accept() (net.Conn, error) {
	for {
		connection, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := Host(connection.RemoteAddr().String())
		if l.add(address) {
			c := &countedConn{Conn: connection, remove: sync.OnceFunc(func() { l.remove(address) }), idleBytes: l.idleBytes}
			c.expectHeader()
			return c, nil
		}
		_ = connection.Close()
	}
}

func (l *perIPListener) add(address string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[address] >= l.each {
		return false
	}
	l.open[address]++
	return true
}

func (l *perIPListener) remove(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[address]--; l.open[address] == 0 {
		delete(l.open, address)
	}
}

// countedConn is a connection that is counted for its address until it is closed. It also limits
// the bytes that a client can send besides the bodies of its requests: crypto/tls keeps up to
// 256 KiB of an unfinished handshake message in memory, also after the handshake.
type countedConn struct {
	net.Conn

	remove func()
	// idleBytes is the number of bytes that a client can send until its next request begins: the
	// handshake and the header.
	idleBytes int
	left      atomic.Int64
}

var errTooManyBytes = errors.New("the client sends more bytes than a handshake and a request have")

// counted returns the countedConn below a connection of a server; nil if there is none.
func counted(connection net.Conn) *countedConn {
	if encrypted, ok := connection.(*tls.Conn); ok {
		connection = encrypted.NetConn()
	}
	c, _ := connection.(*countedConn)
	return c
}

// expectHeader allows the bytes until the next request begins.
func (c *countedConn) expectHeader() { c.left.Store(int64(c.idleBytes)) }

// expectBody also allows the bytes of a body. An eighth more is for the records of TLS.
func (c *countedConn) expectBody(bytes int64) { c.left.Add(bytes + bytes/8) }

// Read implements net.Conn.
func (c *countedConn) Read(p []byte) (int, error) {
	left := c.left.Load()
	if left <= 0 {
		return 0, errTooManyBytes
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), left)])
	c.left.Add(-int64(n))
	return n, err
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	defer c.remove()
	return c.Conn.Close()
}

// Host returns the host of a remote address, without its port.
func Host(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
