package endpoint

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
)

// Policy is what the operator allows to users who write TargetClusters, ClusterProfiles and their
// Secrets. The zero value allows what targets normally need.
type Policy struct {
	// AllowLinkLocal allows 169.254.0.0/16 and fe80::/10, at which clouds have their metadata
	// services.
	AllowLinkLocal bool
	// AllowLocal allows loopback and unspecified addresses (the host of the program that connects),
	// and the addresses in Own.
	AllowLocal bool
	// AmbientNamespaces are the namespaces whose objects may use the broker's own cloud identity, or
	// credentials that plugins find in the broker's container. Empty means none.
	AmbientNamespaces []string
	// Own contains the addresses of this cluster's API server and of Keyferry. It is nil if they are
	// not known, for example outside the cluster.
	Own *Own
}

// AddressError reports that the policy does not allow an address.
type AddressError struct {
	Address netip.Addr
	// Kind is "link-local", "loopback", "platform" or "own".
	Kind string
}

func (e *AddressError) Error() string {
	switch e.Kind {
	case "link-local":
		return fmt.Sprintf("%s is a link-local address, like the metadata services of clouds; use the address of the target", e.Address)
	case "own":
		return fmt.Sprintf("%s is an address of this cluster's API server or of Keyferry itself; use the address of the target", e.Address)
	case "platform":
		return fmt.Sprintf("%s is an address of a cloud's own services, such as its metadata service; use the address of the target", e.Address)
	}
	return fmt.Sprintf("%s is a loopback address, which is different on each machine; use an address that Pods can connect to", e.Address)
}

// CheckAddrPort returns an *AddressError if the policy does not allow an address, or an IPv4
// address that is embedded in it. If this cluster's API server shares its address with other
// programs, only its port is denied.
func (p Policy) CheckAddrPort(at netip.AddrPort) error {
	addr := at.Addr().WithZone("").Unmap()
	if err := p.checkOne(addr, at.Port()); err != nil {
		return err
	}
	for _, inner := range embedded(addr) {
		if err := p.checkOne(inner, at.Port()); err != nil {
			return err
		}
	}
	return nil
}

func (p Policy) checkOne(addr netip.Addr, port uint16) error {
	switch {
	case !p.AllowLocal && p.Own.has(addr, port):
		return &AddressError{Address: addr, Kind: "own"}
	case slices.ContainsFunc(platformAddresses, func(p string) bool { return netip.MustParsePrefix(p).Contains(addr) }):
		return &AddressError{Address: addr, Kind: "platform"}
	case !p.AllowLinkLocal && (addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast()):
		return &AddressError{Address: addr, Kind: "link-local"}
	case !p.AllowLocal && (addr.IsLoopback() || addr.IsUnspecified()):
		return &AddressError{Address: addr, Kind: "loopback"}
	}
	return nil
}

// CheckURL returns an *AddressError if the host of a URL is an IP address that the policy does not
// allow with the port of the URL. It accepts every DNS name: its addresses are checked at each
// connection.
func (p Policy) CheckURL(u *url.URL) error {
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil //nolint:nilerr // a name
	}
	return p.CheckAddrPort(netip.AddrPortFrom(addr, portOf(u)))
}

// portOf returns the port of a URL, or the default port of its scheme.
func portOf(u *url.URL) uint16 {
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		return uint16(port)
	}
	switch u.Scheme {
	case "http":
		return 80
	case "socks5":
		return 1080
	default:
		return 443
	}
}

// CheckAmbient returns an *Error with ReasonAmbientRefused if objects of the namespace may not use
// the broker's own identity. what is the name of the field that uses it.
func (p Policy) CheckAmbient(what, namespace string) error {
	if slices.Contains(p.AmbientNamespaces, namespace) {
		return nil
	}
	return &Error{Reason: ReasonAmbientRefused, Err: fmt.Errorf(
		"%s uses the broker's own identity, which is not allowed in namespace %s: add %s to the chart value ambientIdentity.namespaces, or use another identity",
		what, namespace, namespace)}
}
