package podview

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// reader reads what is wanted of a JSON document and steps over the rest without building it: injection reads a tenth of a Pod, and
// decoding that tenth into structs with encoding/json costs twice as much and allocates several times as often.
//
// It leaves the syntax to json.Valid, so all that can still be wrong is a type, which err then tells. A null is as if it were not there.
type reader struct {
	data []byte
	pos  int
	err  error
}

func newReader(data []byte) (*reader, error) {
	if !json.Valid(data) {
		if err := json.Unmarshal(data, new(any)); err != nil {
			return nil, err
		}
		return nil, errors.New("invalid JSON")
	}
	return &reader{data: data}, nil
}

// members calls f with the name of each member of an object. f reads the value, or leaves it to be stepped over.
func (r *reader) members(f func(name []byte)) {
	if !r.enter('{') {
		return
	}
	for !r.leave('}') {
		name := r.text()
		r.space()
		r.pos++ // the colon
		r.space()
		start := r.pos
		before := r.err
		f(name)
		if r.pos == start {
			r.skip()
		}
		if before == nil && r.err != nil {
			r.err = fmt.Errorf("%s: %w", name, r.err)
		}
	}
}

// elements calls f with the index of each element of an array. f reads the element.
func (r *reader) elements(f func(index int)) {
	if !r.enter('[') {
		return
	}
	for i := 0; !r.leave(']'); i++ {
		r.space()
		start := r.pos
		f(i)
		if r.pos == start {
			r.skip()
		}
	}
}

// text reads a string. The bytes are the document's own, unless they are escaped or no UTF-8.
func (r *reader) text() []byte {
	r.space()
	start := r.pos
	kind := r.data[start]
	r.skip()
	token := r.data[start:r.pos]
	switch {
	case kind == 'n':
		return nil
	case kind != '"':
		r.mismatch("a string")
		return nil
	case bytes.IndexByte(token, '\\') < 0 && utf8.Valid(token):
		return token[1 : len(token)-1]
	}
	var s string
	if err := json.Unmarshal(token, &s); err != nil && r.err == nil {
		r.err = err
	}
	return []byte(s)
}

func (r *reader) bool() bool {
	r.space()
	kind := r.data[r.pos]
	if r.skip(); kind != 't' && kind != 'f' && kind != 'n' {
		r.mismatch("true or false")
	}
	return kind == 't'
}

// value reads any value, as it is written.
func (r *reader) value() []byte {
	r.space()
	start := r.pos
	r.skip()
	return r.data[start:r.pos]
}

// enter tells whether an object or array begins here, and steps into it.
func (r *reader) enter(bracket byte) bool {
	r.space()
	kind := r.data[r.pos]
	if kind == bracket {
		r.pos++
		return true
	}
	if r.skip(); kind != 'n' {
		r.mismatch(map[byte]string{'{': "an object", '[': "a list"}[bracket])
	}
	return false
}

// leave tells whether the object or array ends here, and steps out of it or to the next element.
func (r *reader) leave(bracket byte) bool {
	r.space()
	switch r.data[r.pos] {
	case bracket:
		r.pos++
		return true
	case ',':
		r.pos++
	}
	return false
}

// skip steps over a value.
func (r *reader) skip() {
	r.space()
	for depth := 0; r.pos < len(r.data); {
		switch r.data[r.pos] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return // of what is around a number, true, false or null
			}
			depth--
			if depth == 0 {
				r.pos++
				return
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return
			}
		case '"':
			r.skipString()
			if depth == 0 {
				return
			}
			continue
		}
		r.pos++
	}
}

func (r *reader) skipString() {
	for r.pos++; r.data[r.pos] != '"'; r.pos++ {
		if r.data[r.pos] == '\\' {
			r.pos++
		}
	}
	r.pos++
}

func (r *reader) space() {
	for r.pos < len(r.data) {
		switch r.data[r.pos] {
		case ' ', '\t', '\r', '\n':
			r.pos++
		default:
			return
		}
	}
}

func (r *reader) mismatch(want string) {
	if r.err == nil {
		r.err = fmt.Errorf("is not %s", want)
	}
}
