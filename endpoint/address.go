package endpoint

import (
	"encoding/binary"
	"net/netip"
)

// platformAddresses are addresses at which clouds serve metadata, credentials or agents to their
// machines, except for link-local addresses. They are parsed when they are needed: as text, they
// need no code in the sidecar.
var platformAddresses = []string{
	// Azure, WireServer:
	// https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
	"168.63.129.16/32",
	// Alibaba Cloud: https://www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata
	"100.100.100.200/32",
	"fd00:100::100:200/128",
	// Volcano Engine and BytePlus: https://docs.byteplus.com/en/docs/ecs/Viewing-instance-metadata
	"100.96.0.96/32",
	// UCloud: https://docs.ucloud.cn/uhost/guide/metadata/metadata-server
	"100.80.80.80/32",
	// Oracle Cloud Classic and Oracle Cloud at Customer; IPv6:
	// https://docs.oracle.com/iaas/Content/Compute/Tasks/gettingmetadata.htm
	"192.0.0.192/32",
	"fd00:c1::a9fe:a9fe/128",
	// AWS: metadata (::254), DNS (::253), time (::123) and EKS Pod Identity (::23):
	// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
	"fd00:ec2::/32",
	// Google Cloud: https://cloud.google.com/compute/docs/metadata/querying-metadata
	"fd20:ce::254/128",
	// Scaleway: https://docs.cloud-init.io/en/latest/reference/datasources/scaleway.html
	"fd00:42::42/128",
	// Akamai (Linode): https://techdocs.akamai.com/cloud-computing/docs/metadata-service-api
	"fd00:a9fe:a9fe::1/128",
}

// Prefixes of IPv6 addresses with an embedded IPv4 address, to which packets are translated or
// tunnelled.
var (
	compatible  = netip.MustParsePrefix("::/96")           // RFC 4291, 2.5.5.1
	translated  = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	nat64       = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	localNAT64  = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour   = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo      = netip.MustParsePrefix("2001::/32")       // RFC 4380
	isatap      = [4]byte{0, 0, 0x5e, 0xfe}                // RFC 5214, 6.1
	isatapLocal = byte(0x02)                               // the first byte, if the IPv4 address is unique
)

// embedded returns the IPv4 addresses that are embedded in an IPv6 address.
func embedded(addr netip.Addr) []netip.Addr {
	if !addr.Is6() {
		return nil
	}
	b := addr.As16()
	at := func(i, j, k, l int) netip.Addr { return netip.AddrFrom4([4]byte{b[i], b[j], b[k], b[l]}) }
	last := at(12, 13, 14, 15)
	var found []netip.Addr
	switch {
	case addr.Is4In6(), translated.Contains(addr), nat64.Contains(addr):
		found = append(found, last)
	case compatible.Contains(addr) && addr != netip.IPv6Unspecified() && addr != netip.IPv6Loopback():
		found = append(found, last)
	case localNAT64.Contains(addr):
		// The network chooses the length of the prefix (RFC 6052, 2.2). Byte 8 is zero.
		for _, candidate := range []netip.Addr{at(6, 7, 9, 10), at(7, 9, 10, 11), at(9, 10, 11, 12), last} {
			if !candidate.IsUnspecified() {
				found = append(found, candidate)
			}
		}
	case sixToFour.Contains(addr):
		found = append(found, at(2, 3, 4, 5))
	case teredo.Contains(addr):
		// The server's address, and the client's with its bits inverted.
		client := ^binary.BigEndian.Uint32(b[12:])
		found = append(found, at(4, 5, 6, 7), netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, client))))
	}
	if id := [4]byte(b[8:12]); id == isatap || id[0] == isatapLocal && [3]byte(id[1:]) == [3]byte(isatap[1:]) {
		found = append(found, last)
	}
	return found
}
