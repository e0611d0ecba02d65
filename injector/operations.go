package injector

import "strconv"

// Operation is an operation of RFC 6902: add, replace, remove or move.
type Operation struct {
	Op    string `json:"op"`
	From  string `json:"from,omitempty"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// operations is a patch being written. Each operation's index counts on those before it.
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

// at is the path of an element of a list, which is below a path.
func at(path, list string, index int) string {
	return path + list + strconv.Itoa(index)
}
