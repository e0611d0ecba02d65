package injector_test

import (
	"testing"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector/podview"
)

// TestAudience: injected Pods present tokens of the audience that the broker accepts, which is that
// of Pods that run already.
func TestAudience(t *testing.T) {
	if podview.Audience != v1alpha1.BrokerAudience || v1alpha1.BrokerAudience != "keyferry" {
		t.Errorf("Pods present tokens for %q, and the broker accepts %q; want keyferry", podview.Audience, v1alpha1.BrokerAudience)
	}
}
