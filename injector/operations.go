package injector

import "strconv"

// Operation is a JSON Patch operation (RFC 6902): add, replace, remove or move.
type Operation struct {
	Op    string `json:"op"`
	From  string `json:"from,omitempty"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// operations is a JSON Patch. The indexes of an operation assume that the operations before it were
// applied.
type operations []Operation

func (o *operations) add(path string, value any) {
	*o = append(*o, Operation{Op: "add", Path: path, Value: value})
}

func (o *operations) replace(path string, value any) {
	*o = append(*o, Operation{Op: "replace", Path: path, Value: value})
}

func (o *operations) remove(path string) {
	*o = append(*o, Operation{Op: "remove", Path: path})
}

func (o *operations) move(from, path string) {
	*o = append(*o, Operation{Op: "move", From: from, Path: path})
}

// at returns the path of an element of a list at path + list.
func at(path, list string, index int) string {
	return path + list + strconv.Itoa(index)
}
