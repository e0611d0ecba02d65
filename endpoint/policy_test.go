package endpoint_test

import (
	"net/netip"
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
			err := test.policy.CheckAddress(netip.MustParseAddr(address))
			if (err != nil) != test.refused {
				t.Errorf("got %v, want refused = %v", err, test.refused)
			}
		})
	}
}
