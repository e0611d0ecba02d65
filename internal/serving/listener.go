package serving

import (
	"net"
	"sync"
)

// perIPListener limits the connections of each address. It closes further connections, so that a
// client cannot use all connections.
type perIPListener struct {
	net.Listener

	each int

	mu   sync.Mutex
	open map[string]int
}

func newPerIPListener(listener net.Listener, each int) *perIPListener {
	return &perIPListener{Listener: listener, each: each, open: map[string]int{}}
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
			return &countedConn{Conn: connection, remove: sync.OnceFunc(func() { l.remove(address) })}, nil
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

// countedConn is a connection that is counted for its address until it is closed.
type countedConn struct {
	net.Conn

	remove func()
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
