package policyflag_test

import (
	"reflect"
	"testing"

	"github.com/spf13/pflag"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/internal/policyflag"
)

func TestOverride(t *testing.T) {
	all := endpoint.Policy{AllowLinkLocal: true, AllowLocal: true, AmbientNamespaces: []string{"fleet"}}
	for name, test := range map[string]struct {
		args     []string
		expected endpoint.Policy
	}{
		"no flag":    {nil, all},
		"link-local": {[]string{"--allow-link-local=false"}, endpoint.Policy{AllowLocal: true, AmbientNamespaces: []string{"fleet"}}},
		"local":      {[]string{"--allow-local-addresses=false"}, endpoint.Policy{AllowLinkLocal: true, AmbientNamespaces: []string{"fleet"}}},
		"ambient":    {[]string{"--ambient-identity-namespaces=a,b"}, endpoint.Policy{AllowLinkLocal: true, AllowLocal: true, AmbientNamespaces: []string{"a", "b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			var given endpoint.Policy
			flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
			policyflag.Add(flags, &given)
			if err := flags.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			policy := all
			policyflag.Override(&policy, given, flags.Changed)
			if !reflect.DeepEqual(policy, test.expected) {
				t.Errorf("got %+v, want %+v", policy, test.expected)
			}
		})
	}
}
