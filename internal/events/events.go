// Package events limits the length of Events.
package events

import "strings"

// mostBytes is less than the limit for an Event's note, which is 1024 bytes.
const mostBytes = 1000

// Limit shortens a text so that it fits into an Event.
func Limit(text string) string {
	if len(text) <= mostBytes {
		return text
	}
	return strings.ToValidUTF8(text[:mostBytes], "") + " …"
}
