package webhook

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// addressLife is how long a looked-up address is taken for current. A Service keeps its ClusterIP
// as long as it is there.
const addressLife = 2 * time.Minute

// Address is the IP address behind a host name, looked up when it is asked for and kept for some
// minutes. Host and Lookup are required.
type Address struct {
	// Host is the name to look up.
	Host string
	// Lookup is net.Resolver.LookupNetIP.
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

	mu   sync.Mutex
	last string
	at   time.Time
}

// Get returns the address. While it cannot be looked up, the last one is.
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
