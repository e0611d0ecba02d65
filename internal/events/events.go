// Package events tells users on the objects that they look at, within limits: many Pods may have one and the same trouble at once.
package events

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"
)

const (
	// mostBytes is less than the 1024 that a note may have.
	mostBytes = 1000
	// What is more than this is left out: Events are written one by one, and the API server has other work. Logs and metrics have all.
	perSecond, atOnce = 5, 50
)

// Limit keeps a text short enough for an Event.
func Limit(text string) string {
	if len(text) <= mostBytes {
		return text
	}
	return strings.ToValidUTF8(text[:mostBytes], "") + " …"
}

// Teller tells with an EventRecorder, which makes one Event of many alike. The zero value and nil tell nobody.
type Teller struct {
	recorder events.EventRecorder
	limiter  flowcontrol.PassiveRateLimiter
}

// NewTeller returns a Teller; recorder may be nil.
func NewTeller(recorder events.EventRecorder) *Teller {
	return &Teller{recorder: recorder, limiter: flowcontrol.NewTokenBucketPassiveRateLimiter(perSecond, atOnce)}
}

// Warn tells a warning about an object.
func (t *Teller) Warn(about corev1.ObjectReference, reason, action, text string) {
	if t == nil || t.recorder == nil || !t.limiter.TryAccept() {
		return
	}
	t.recorder.Eventf(&about, nil, corev1.EventTypeWarning, reason, action, "%s", Limit(text))
}
