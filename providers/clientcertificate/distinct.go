package clientcertificate

import (
	"fmt"
	"slices"
	"strings"
)

// Characters of names in Kubernetes. All UIDs of Pods have the same length.
const (
	inNamespaces = "-0123456789abcdefghijklmnopqrstuvwxyz"
	inNames      = "." + inNamespaces // of ServiceAccounts and Pods
)

// parts are the fields of a template, and the literals before, between and after them.
func (t template) parts() (fields, literals []string) {
	return field.FindAllString(t.text, -1), field.Split(t.text, -1)
}

// checkDistinct refuses a template that comes to the same name for identities with different values
// of its fields, and one with a name that is unique in a namespace only.
func (t template) checkDistinct() error {
	fields, literals := t.parts()
	if !slices.Contains(fields, fieldNamespace) && !slices.Contains(fields, fieldPodUID) {
		for _, f := range fields {
			return fmt.Errorf("%s is the same name in several namespaces: add %s, as in %s:%s", f, fieldNamespace, fieldNamespace, f)
		}
	}
	// Fields are told apart from both ends. At most one that is left over is the rest.
	first, last := 0, len(fields)-1
	for first < last && endsAt(fields[first], literals[first+1]) {
		first++
	}
	for last > first && endsAt(fields[last], literals[last]) {
		last--
	}
	if first < last {
		return fmt.Errorf("different values of %s and %s can result in the same name: put a colon or a slash between them", fields[first], fields[first+1])
	}
	return nil
}

// endsAt reports whether a value of a field cannot reach into the literal next to it.
func endsAt(field, literal string) bool {
	switch field {
	case fieldPodUID:
		return true
	case fieldNamespace:
		return strings.Trim(literal, inNamespaces) != ""
	}
	return strings.Trim(literal, inNames) != ""
}

// checkGroups refuses two organizations that come to the same name for different identities: each
// would be in the group of the other.
func (s subjectTemplate) checkGroups() error {
	organizations := s[1:]
	for i, a := range organizations {
		for _, b := range organizations[:i] {
			if !a.isFixed() && !b.isFixed() && a.text != b.text && !a.differsFrom(b) {
				return fmt.Errorf("%s: %s and %s can result in the same name: begin each with a different prefix, such as namespace:", a.name, b.text, a.text)
			}
		}
	}
	return nil
}

func (t template) isFixed() bool { return !field.MatchString(t.text) }

// differsFrom reports whether the literals at the beginnings or at the ends of two templates show
// that they never come to the same name.
func (t template) differsFrom(other template) bool {
	_, a := t.parts()
	_, b := other.parts()
	first, last := len(a)-1, len(b)-1
	return !strings.HasPrefix(a[0], b[0]) && !strings.HasPrefix(b[0], a[0]) ||
		!strings.HasSuffix(a[first], b[last]) && !strings.HasSuffix(b[last], a[first])
}

// warning is about names that users choose.
func (s subjectTemplate) warning() string {
	for _, t := range s {
		fields, _ := t.parts()
		if slices.Contains(fields, fieldPodName) && !slices.Contains(fields, fieldServiceAccount) && !slices.Contains(fields, fieldPodUID) {
			return fmt.Sprintf("%s: users who create Pods choose their names, so Pods of other ServiceAccounts of the namespace can have the same name later: add %s, or use %s",
				t.name, fieldServiceAccount, fieldPodUID)
		}
	}
	return ""
}
