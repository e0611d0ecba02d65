package endpoint

import (
	"fmt"
	"net/netip"
	"slices"
)

// Policy is what the operator allows to those who write TargetClusters, ClusterProfiles and their
// Secrets. The zero value allows what a target normally needs.
type Policy struct {
	// AllowLinkLocal allows 169.254.0.0/16 and fe80::/10, where clouds keep their metadata services.
	AllowLinkLocal bool
	// AllowLocal allows loopback and unspecified addresses, the host of the program that connects, and
	// those in Own.
	AllowLocal bool
	// AmbientNamespaces are the namespaces whose objects may use the broker's own cloud identity, or
	// what plugins find in the broker's container. Empty: none.
	AmbientNamespaces []string
	// Own are this cluster's API server, and Keyferry's own Services and Pods. Nil: they are not
	// known, as outside of the cluster.
	Own *Own
}

// AddressError says that the policy allows no connection to an address.
type AddressError struct {
	Address netip.Addr
	// Kind is "link-local", "loopback", "platform" or "own".
	Kind string
}

func (e *AddressError) Error() string {
	switch e.Kind {
	case "link-local":
		return fmt.Sprintf("%s is a link-local address, where clouds keep their metadata services; targets must not have one", e.Address)
	case "own":
		return fmt.Sprintf("%s is an address of this cluster's API server or of Keyferry itself; give the address of the target", e.Address)
	case "platform":
		return fmt.Sprintf("%s is an address at which a cloud serves its own machines, such as its metadata service; give the address of the target", e.Address)
	}
	return fmt.Sprintf("%s is a loopback address, which means something else on each machine; give the address that Pods reach the target at", e.Address)
}

// CheckAddress returns an *AddressError if addr must not be connected to, or stands for an IPv4
// address that must not.
func (p Policy) CheckAddress(addr netip.Addr) error {
	return p.CheckAddrPort(netip.AddrPortFrom(addr, 0))
}

// CheckAddrPort is CheckAddress for a port: of addresses that this cluster's API server shares with
// other programs, only its port is refused.
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
	case slices.ContainsFunc(platformAddresses, func(p netip.Prefix) bool { return p.Contains(addr) }):
		return &AddressError{Address: addr, Kind: "platform"}
	case !p.AllowLinkLocal && (addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast()):
		return &AddressError{Address: addr, Kind: "link-local"}
	case !p.AllowLocal && (addr.IsLoopback() || addr.IsUnspecified()):
		return &AddressError{Address: addr, Kind: "loopback"}
	}
	return nil
}

// CheckHost returns an *AddressError if host is an address that must not be connected to. A name
// passes: its addresses are checked when it is dialled.
func (p Policy) CheckHost(host string) error {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil //nolint:nilerr // a name
	}
	return p.CheckAddress(addr)
}

// CheckAmbient returns an *Error with ReasonAmbientRefused if objects of the namespace may not use
// the broker's own identity. what names the object's field that asks for it.
func (p Policy) CheckAmbient(what, namespace string) error {
	if slices.Contains(p.AmbientNamespaces, namespace) {
		return nil
	}
	return &Error{Reason: ReasonAmbientRefused, Err: fmt.Errorf(
		"%s acts with the broker's own identity, which namespace %s is not allowed: add %s to the chart value ambientIdentity.namespaces, or use another identity",
		what, namespace, namespace)}
}
