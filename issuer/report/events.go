package report

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	clientevents "k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/events"
	"github.com/keyferry/keyferry/providers"
)

// More Events than these are dropped: each is a write to the API server. Logs and metrics have all.
const eventsPerSecond, eventsBurst = 5, 50

// Events records on Pods why they receive no credential. Its recorder makes one Event of many equal
// ones.
type Events struct {
	recorder clientevents.EventRecorder
	limiter  flowcontrol.PassiveRateLimiter
}

// NewEvents returns Events; with a nil recorder they record nothing.
func NewEvents(recorder clientevents.EventRecorder) *Events {
	return &Events{recorder: recorder, limiter: flowcontrol.NewTokenBucketPassiveRateLimiter(eventsPerSecond, eventsBurst)}
}

// Refused records that a Pod received no credential, and why.
func (e *Events) Refused(pod providers.Identity, message string) {
	if e.recorder == nil || pod.PodUID == "" || !e.limiter.TryAccept() {
		return
	}
	object := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.PodName, UID: types.UID(pod.PodUID)}
	e.recorder.Eventf(object, nil, corev1.EventTypeWarning, v1alpha1.EventCredentialRefused, "Issue", "%s", events.Limit(message))
}
