package injector_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/keyferry/keyferry/injector"
)

func TestFederationKeys(t *testing.T) {
	name := func(namespace, name string) types.NamespacedName {
		return types.NamespacedName{Namespace: namespace, Name: name}
	}
	got := injector.FederationKeysOf(name("fleet", "tenant-1"))
	if want := (injector.FederationKeys{
		CertificateAuthority: "fleet_tenant-1.ca.crt", Namespace: "fleet_tenant-1.namespace", Host: "fleet_tenant-1.host", Port: "fleet_tenant-1.port",
	}); got != want {
		t.Errorf("got %+v", got)
	}

	long := strings.Repeat("a.b-", 63)
	seen := map[string]types.NamespacedName{}
	for _, target := range []types.NamespacedName{
		name("fleet", "a"), name("fleet", "a.ca.crt"), name("fleet", "a.namespace"), name("fleet-a", "b"), name("fleet", "a-b"),
		name(strings.Repeat("n", 63), long+"c"), name(strings.Repeat("n", 63), long+"d"),
		name("fleet", long[:237]), name("fleet", long[:237]+"x"),
	} {
		keys := injector.FederationKeysOf(target)
		for _, key := range []string{keys.CertificateAuthority, keys.Namespace, keys.Host, keys.Port} {
			if msgs := validation.IsConfigMapKey(key); len(msgs) > 0 {
				t.Errorf("%s: %v", key, msgs)
			}
			if other, taken := seen[key]; taken {
				t.Errorf("%s and %s both have %s", other, target, key)
			}
			seen[key] = target
		}
	}
}
