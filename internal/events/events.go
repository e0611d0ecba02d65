// Package events limits what Events say.
package events

import "strings"

// mostBytes is less than the 1024 that a note may have.
const mostBytes = 1000

// Limit keeps a text short enough for an Event.
func Limit(text string) string {
	if len(text) <= mostBytes {
		return text
	}
	return strings.ToValidUTF8(text[:mostBytes], "") + " …"
}
