package broker

import (
	"net"
	"sync"
)

// fairShare: no address has more than this part of the connections, nor is it given fewer than minShare.
const fairShare, minShare = 32, 8

// places is a listener that closes what an address opens beyond its places, so that no client keeps the others out.
type places struct {
	net.Listener

	each int

	mu    sync.Mutex
	taken map[string]int
}

// perAddress limits the connections that listener accepts from one address.
func perAddress(listener net.Listener, each int) net.Listener {
	return &places{Listener: listener, each: each, taken: map[string]int{}}
}

// Accept implements net.Listener.
func (p *places) Accept() (net.Conn, error) {
	for {
		connection, err := p.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := hostOf(connection.RemoteAddr().String())
		if p.enter(address) {
			return &placed{Conn: connection, leave: sync.OnceFunc(func() { p.leave(address) })}, nil
		}
		_ = connection.Close()
	}
}

func (p *places) enter(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[address] >= p.each {
		return false
	}
	p.taken[address]++
	return true
}

func (p *places) leave(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[address]--; p.taken[address] == 0 {
		delete(p.taken, address)
	}
}

// placed is a connection that has a place until it is closed.
type placed struct {
	net.Conn

	leave func()
}

// Close implements net.Conn.
func (p *placed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}

// hostOf returns the address without its port.
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
