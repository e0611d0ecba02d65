package credentials

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller/credentials/stored"
)

// deletedByHand: a Secret that is deleted when its credential is older than this gets another
// credential, which is how people have one replaced. Sooner it gets the same one again, so that
// what deletes it over and over does not have as many issued.
const deletedByHand = time.Minute

// situation is all that it depends on what is to be done for a request.
type situation struct {
	now time.Time
	// source is the digest of what the credential is to come from.
	source string
	// missing says that there is no Secret; stored is what it holds, nil if that has been edited or is
	// not known.
	missing bool
	stored  *stored.Credential
	// kept is what was written last, as far as this process knows, and overdue says that it should
	// have been replaced by now, whatever the wall clock shows.
	kept    *stored.Credential
	overdue bool
}

// decision is what is to be done: use is to be in the Secret, as it is or again; nil is to have a
// new credential issued. Fallback may be put back into the Secret if none can be had.
type decision struct {
	use, fallback *stored.Credential
}

// decide issues nothing while there is a credential that was issued for the same and is not due to
// be replaced.
func decide(s situation) decision {
	usable := func(h *stored.Credential) bool { return h != nil && h.Source == s.source && h.Alive(s.now) }
	due := func(h *stored.Credential) bool {
		return h.Due(s.now) || s.overdue && h.IssuedAt.Equal(s.kept.IssuedAt)
	}
	if usable(s.stored) && !due(s.stored) {
		return decision{use: s.stored}
	}
	if !usable(s.kept) {
		return decision{}
	}
	deleted := s.missing && s.now.Sub(s.kept.IssuedAt) > deletedByHand
	if due(s.kept) || deleted {
		return decision{fallback: s.kept}
	}
	return decision{use: s.kept}
}

// claim notes that the revocation is in use, and reports whether that changes the list.
func claim(list []v1alpha1.Revocation, used v1alpha1.Revocation) ([]v1alpha1.Revocation, bool) {
	for i, r := range list {
		if !sameRevocation(r, used) {
			continue
		}
		if r.Since == nil {
			return list, false
		}
		list = slices.Clone(list)
		list[i].Since = nil
		return list, true
	}
	return append(slices.Clone(list), used), true
}

// leave notes of all others that they are no longer used, from now on.
func leave(list []v1alpha1.Revocation, used v1alpha1.Revocation, now time.Time) []v1alpha1.Revocation {
	list = slices.Clone(list)
	for i := range list {
		if list[i].Since == nil && !sameRevocation(list[i], used) {
			list[i].Since = &metav1.Time{Time: now}
		}
	}
	return list
}

func sameRevocation(a, b v1alpha1.Revocation) bool {
	return a.TargetCluster == b.TargetCluster && a.Handle == b.Handle
}
