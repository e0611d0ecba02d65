package podview

import (
	"errors"
	"fmt"

	"github.com/keyferry/keyferry/injector/jsonview"
)

// Limits of a Pod that requests another cluster. They bound the memory and the time that a Pod
// needs: a few bytes in a request, such as an empty container, become hundreds of bytes in memory
// and thousands in the patch. The limits are for what Keyferry keeps of a Pod. A Pod may have any
// number of other variables, mounts, volumes and ports.
const (
	// maxContainers is for each of the two lists. It is more than any Pod has.
	maxContainers = 200
	// maxKept is for the variables and for the mounts of a container that Keyferry has to replace or
	// compare: in a Pod that can run, there are some five of each.
	maxKept = 16
	// maxName is the longest name that Kubernetes allows, in bytes.
	maxName = 253
	// maxPath is the longest path that Linux allows, in bytes.
	maxPath = 4 << 10
	// maxValue is the longest variable that Linux allows, in bytes.
	maxValue = 128 << 10
	// maxOurs is for the containers and volumes with Keyferry's names, in bytes. They are decoded as a
	// whole.
	maxOurs = 256 << 10
	// maxMemory is for the whole Pod, in bytes; see Pod.Memory.
	maxMemory = 16 << 20
	// maxAnnotations is for Keyferry's annotations, in bytes. Kubernetes allows no more for all
	// annotations.
	maxAnnotations = 256 << 10
)

// Bytes that an injection needs for each container and for each variable and mount that it keeps,
// besides their texts: in the Pod, in the operations and in the encoded patch.
const (
	containerMemory = 4 << 10
	keptMemory      = 512
	// textMemory is the number of copies of a text, with those of the encoders.
	textMemory = 4
)

var errAnnotations = errors.New("metadata.annotations: the annotations of Keyferry have more than 256 KiB: remove some, or shorten them")

// reader reads a Pod. It skips what exceeds a limit, and remembers the first limit.
type reader struct {
	jsonview.Reader

	// list and index are the container that is being read, such as the first one of spec.containers.
	// Outside of containers, list is empty.
	list  string
	index int

	memory   int
	ours     int // bytes of the containers and volumes with Keyferry's names
	exceeded error
}

// exceed records that a field of the Pod, or of the current container, exceeds a limit. The format
// describes the limit and the fix.
func (r *reader) exceed(field, format string, args ...any) {
	if r.exceeded != nil {
		return
	}
	if r.list != "" {
		field = fmt.Sprintf("%s[%d].%s", r.list, r.index, field)
	}
	r.exceeded = fmt.Errorf("%s: %w", field, fmt.Errorf(format, args...))
}

// name reads a name. If it is longer than maxName, the result is empty.
func (r *reader) name(field string) string { return r.text(r.Text(), field, maxName) }

// text returns a string that was read before. If it is longer than limit, the result is empty.
func (r *reader) text(text []byte, field string, limit int) string {
	if len(text) > limit {
		r.exceed(field, "has %d bytes, but at most %d are possible: shorten it", len(text), limit)
		return ""
	}
	r.memory += textMemory * len(text)
	return string(text)
}

// another reports whether a list of n variables or mounts may get another one, and counts its
// memory. what describes the elements.
func (r *reader) another(field string, n int, what string) bool {
	if n >= maxKept {
		r.exceed(field, "has more than %d %s: remove some", maxKept, what)
		return false
	}
	r.memory += keptMemory
	return true
}

// whole returns the JSON of a container or volume with one of Keyferry's names.
func (r *reader) whole(field string, json jsonview.Valid) jsonview.Valid {
	if r.ours += len(json); r.ours > maxOurs {
		r.exceed(field, "the containers and volumes with names of Keyferry have more than %d KiB: rename yours, or remove what was added to Keyferry's", maxOurs>>10)
		return nil
	}
	return json
}
