package proxy

import (
	"net"
	"sync"
)

// maxConnections limits the connections of clients. Clients with HTTP/2 use one connection for
// hundreds of watches.
const maxConnections = 1024

// limited is a listener that limits the number of open connections. Further connections wait in the
// kernel.
type limited struct {
	net.Listener

	places chan struct{}
	closed chan struct{}
	close  sync.Once
}

// Limit returns a listener that keeps at most this number of connections open.
func Limit(listener net.Listener, connections int) net.Listener {
	return &limited{Listener: listener, places: make(chan struct{}, connections), closed: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	connection, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return gather(&placed{Conn: connection, leave: sync.OnceFunc(func() { <-l.places })}), nil
}

func (l *limited) Close() error {
	l.close.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// placed is a connection that frees its place when it is closed.
type placed struct {
	net.Conn

	leave func()
}

func (p *placed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}
