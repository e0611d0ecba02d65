package webhook

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// addressLife is the time for which a looked-up address is used. The ClusterIP of a Service never
// changes while the Service exists.
const addressLife = 2 * time.Minute

// Address looks up the IP address of a host name and caches it for some minutes. Host and Lookup
// are required.
type Address struct {
	// Host is the name to look up.
	Host string
	// Lookup is the method LookupNetIP of a net.Resolver.
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

	mu   sync.Mutex
	last string
	at   time.Time
}

// Get returns the address. If the lookup fails, Get returns the last address.
func (a *Address) Get(ctx context.Context) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last != "" && time.Since(a.at) < addressLife {
		return a.last, nil
	}
	found, err := a.Lookup(ctx, "ip", a.Host)
	if err == nil && len(found) > 0 {
		a.last, a.at = found[0].Unmap().String(), time.Now()
	}
	if a.last == "" {
		return "", fmt.Errorf("looking up the broker's Service %s: %w", a.Host, err)
	}
	return a.last, nil
}
