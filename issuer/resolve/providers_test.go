package resolve

import (
	"reflect"
	"strings"
	"testing"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// TestEachFieldOfAccessHasARow: a provider of the API that the table does not have could never be
// resolved, and a row that reads the field of another would read its Secret.
func TestEachFieldOfAccessHasARow(t *testing.T) {
	fields := reflect.TypeFor[v1alpha1.Access]()
	for i := range fields.NumField() {
		field := fields.Field(i)
		if field.Type.Kind() != reflect.Pointer {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		var access v1alpha1.Access
		reflect.ValueOf(&access).Elem().Field(i).Set(reflect.New(field.Type.Elem()))
		var set []string
		for _, r := range table() {
			if r.field != "" && r.isSet(access) {
				set = append(set, r.field)
				access.Type = r.accessType
			}
		}
		if len(set) != 1 || set[0] != name {
			t.Errorf("spec.access.%s is the field of the rows %q, want one of the same name", name, set)
		}
		if secret, path := AccessSecret(access); secret != "" || path != "" && !strings.HasPrefix(path, "spec.access."+name+".") {
			t.Errorf("the Secret of an empty spec.access.%s is %q at %s", name, secret, path)
		}
		if secret, _ := AccessSecret(v1alpha1.Access{Type: access.Type}); secret != "" {
			t.Errorf("type %s without its field has the Secret %q", access.Type, secret)
		}
	}
}
