package endpoint

import (
	"net/netip"
	"sync/atomic"
)

// Own contains the addresses of this cluster that no target may have: those of its API server and
// of Keyferry itself. Nil and the zero value contain none. An Own may be used concurrently.
type Own struct{ current atomic.Pointer[ownAddresses] }

type ownAddresses struct {
	all   map[netip.Addr]bool
	ports map[netip.AddrPort]bool
}

// Set replaces the addresses. Addresses in all are denied with every port, those in ports only with
// that port.
func (o *Own) Set(all []netip.Addr, ports []netip.AddrPort) {
	next := &ownAddresses{all: map[netip.Addr]bool{}, ports: map[netip.AddrPort]bool{}}
	for _, addr := range all {
		next.all[addr.Unmap()] = true
	}
	for _, addr := range ports {
		next.ports[netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())] = true
	}
	o.current.Store(next)
}

// has reports whether addr is in the first list, or addr with the port in the second.
func (o *Own) has(addr netip.Addr, port uint16) bool {
	if o == nil {
		return false
	}
	current := o.current.Load()
	return current != nil && (current.all[addr] || current.ports[netip.AddrPortFrom(addr, port)])
}
