package report

import (
	"testing"

	"k8s.io/client-go/tools/events"

	"github.com/keyferry/keyferry/providers"
)

func TestEventsAreLimited(t *testing.T) {
	pod := providers.Identity{Namespace: "app", PodName: "web-0", PodUID: "1"}
	NewEvents(nil).Refused(pod, "c")

	recorder := events.NewFakeRecorder(1000)
	recorded := NewEvents(recorder)
	recorded.Refused(providers.Identity{}, "the client is not known")
	for range 1000 {
		recorded.Refused(pod, "100%s of it")
	}
	if got := len(recorder.Events); got < eventsBurst || got > 2*eventsBurst {
		t.Errorf("recorded %d of 1000", got)
	}
	if got := <-recorder.Events; got != "Warning CredentialRefused 100%s of it" {
		t.Errorf("recorded %q", got)
	}
}
