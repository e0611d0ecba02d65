package endpoint_test

import (
	"net"
	"net/netip"
	"net/url"
	"testing"

	"github.com/keyferry/keyferry/endpoint"
)

func TestCheckAddress(t *testing.T) {
	for address, test := range map[string]struct {
		policy  endpoint.Policy
		refused bool
	}{
		"203.0.113.7":            {refused: false},
		"10.0.0.1":               {refused: false},
		"2001:db8::7":            {refused: false},
		"169.254.169.254":        {refused: true},
		"::ffff:169.254.169.254": {refused: true},
		"fe80::1":                {refused: true},
		"ff02::1":                {refused: true},
		"127.0.0.1":              {refused: true},
		"127.8.8.8":              {refused: true},
		"::1":                    {refused: true},
		"::ffff:127.0.0.1":       {refused: true},
		"0.0.0.0":                {refused: true},
		"::":                     {refused: true},
		"169.254.1.1":            {policy: endpoint.Policy{AllowLinkLocal: true}, refused: false},
		"127.0.0.2":              {policy: endpoint.Policy{AllowLocal: true}, refused: false},
		"169.254.1.2":            {policy: endpoint.Policy{AllowLocal: true}, refused: true},
		"127.0.0.3":              {policy: endpoint.Policy{AllowLinkLocal: true}, refused: true},
		"::ffff:127.0.0.4":       {policy: endpoint.Policy{AllowLocal: true}, refused: false},
		"fe80::2":                {policy: endpoint.Policy{AllowLinkLocal: true}, refused: false},
		"::ffff:169.254.169.2":   {policy: endpoint.Policy{AllowLinkLocal: true}, refused: false},
	} {
		t.Run(address, func(t *testing.T) {
			err := test.policy.CheckAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 443))
			if (err != nil) != test.refused {
				t.Errorf("got %v, want refused = %v", err, test.refused)
			}
		})
	}
}

// TestEmbeddedAddresses checks that an IPv6 address is denied if an IPv4 address that is embedded
// in it is denied.
func TestEmbeddedAddresses(t *testing.T) {
	refused := map[string]bool{
		// Of the clouds.
		"168.63.129.16": true, "100.100.100.200": true, "192.0.0.192": true, "fd00:ec2::254": true, "fd00:ec2::23": true,
		"fd20:ce::254": true, "fd00:c1::a9fe:a9fe": true, "fd00:42::42": true, "fd00:a9fe:a9fe::1": true, "fd00:100::100:200": true,
		"100.96.0.96": true, "100.80.80.80": true,
		"168.63.129.17": false, "100.100.100.201": false, "100.96.0.97": false, "fd00:ec3::254": false, "fd20:ce::255": false,
		// 169.254.169.254 in all forms.
		"::ffff:a9fe:a9fe": true, "::a9fe:a9fe": true, "::ffff:0:a9fe:a9fe": true, "64:ff9b::a9fe:a9fe": true,
		"64:ff9b:1:a9fe:a9:fe00::": true, "64:ff9b:1:ffa9:fe:a9fe::": true, "64:ff9b:1:ffff:a9:fea9:fe00:0": true, "64:ff9b:1:ffff::a9fe:a9fe": true,
		"2002:a9fe:a9fe::1": true, "2001:0:cb00:7107:0:0:5601:5601": true, "2001:0:a9fe:a9fe::": true,
		"2001:db8::5efe:a9fe:a9fe": true, "2001:db8::200:5efe:a9fe:a9fe": true, "fe80::5efe:cb00:7107": true,
		// Other addresses that are refused.
		"64:ff9b::127.0.0.1": true, "64:ff9b::168.63.129.16": true, "2002:7f00:1::": true, "::127.0.0.1": true, "fe80::1%eth0": true,
		"64:ff9b::0.0.0.0": true, "2001:db8::5efe:7f00:1": true,
		// 203.0.113.7 in the same forms.
		"::ffff:cb00:7107": false, "::cb00:7107": false, "::ffff:0:cb00:7107": false, "64:ff9b::cb00:7107": false,
		"64:ff9b:1:cb00:71:700::": false, "64:ff9b:1::cb00:7107": false, "2002:cb00:7107::1": false, "2001:0:cb00:7107:0:0:34ff:8ef8": false,
		"2001:db8::5efe:cb00:7107": false,
		// Addresses that look like these.
		"64:ff9b:2::a9fe:a9fe": false, "2003:a9fe:a9fe::1": false, "2001:1:a9fe:a9fe::": false, "2001:db8::a9fe:a9fe": false,
	}
	for address, want := range refused {
		if err := (endpoint.Policy{}).CheckAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 443)); (err != nil) != want {
			t.Errorf("%s: %v, want refused = %v", address, err, want)
		}
		if err := (endpoint.Policy{}).CheckURL(&url.URL{Scheme: "https", Host: net.JoinHostPort(address, "443")}); (err != nil) != want {
			t.Errorf("host %s: %v, want refused = %v", address, err, want)
		}
	}
	for _, address := range []string{"168.63.129.16", "fd00:ec2::254", "64:ff9b::168.63.129.16"} {
		if (endpoint.Policy{AllowLinkLocal: true, AllowLocal: true}).CheckAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 443)) == nil {
			t.Errorf("%s is allowed with link-local addresses", address)
		}
	}
}

// TestOwnPorts checks that an address of this cluster that is only denied with a port is denied in
// a URL with that port, also if the port is the default of the scheme.
func TestOwnPorts(t *testing.T) {
	policy := endpoint.Policy{Own: new(endpoint.Own)}
	policy.Own.Set(nil, []netip.AddrPort{
		netip.MustParseAddrPort("203.0.113.7:6443"), netip.MustParseAddrPort("203.0.113.8:443"),
		netip.MustParseAddrPort("203.0.113.9:80"), netip.MustParseAddrPort("203.0.113.10:1080"), netip.MustParseAddrPort("[2001:db8::7]:443"),
	})
	for server, refused := range map[string]bool{
		"https://203.0.113.7:6443": true, "https://203.0.113.7": false, "https://[64:ff9b::cb00:7107]:6443": true,
		"https://203.0.113.8": true, "https://203.0.113.8:443/path": true, "https://203.0.113.8:8443": false,
		"https://[2001:db8::7]": true, "https://[2001:db8::7]:6443": false,
	} {
		if _, err := policy.Check(endpoint.Endpoint{Server: server}); (err != nil) != refused {
			t.Errorf("server %s: %v", server, err)
		}
	}
	for proxy, refused := range map[string]bool{
		"http://203.0.113.9": true, "http://203.0.113.9:3128": false, "https://203.0.113.9": false,
		"socks5://203.0.113.10": true, "socks5://203.0.113.10:1081": false, "https://203.0.113.8": true,
	} {
		if _, err := policy.Check(endpoint.Endpoint{Server: "https://api.example.com", ProxyURL: proxy}); (err != nil) != refused {
			t.Errorf("proxy %s: %v", proxy, err)
		}
	}
}
