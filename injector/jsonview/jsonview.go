// Package jsonview reads of a JSON document what is wanted, and steps over the rest without
// building it.
//
// An admission reads a tenth of what it is sent; to decode that tenth into structs with
// encoding/json costs twice as much as all else that an admission does, and allocates several times
// as often.
package jsonview

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Valid is JSON that is known to be well-formed.
type Valid []byte

// Check returns data as what it is, if it is JSON.
func Check(data []byte) (Valid, error) {
	if !json.Valid(data) {
		if err := json.Unmarshal(data, new(any)); err != nil {
			return nil, err
		}
		return nil, errors.New("invalid JSON")
	}
	return data, nil
}

// Reader reads one value after the other. Since the syntax is known to be good, all that can still
// be wrong is a type, which Err then tells. A null is as if it were not there.
type Reader struct {
	data []byte
	pos  int
	err  error
}

// Read returns a Reader at the beginning.
func (v Valid) Read() *Reader { return &Reader{data: v} }

// Err tells which value has another type than it was read as, and where; nil if none has.
func (r *Reader) Err() error { return r.err }

// Members calls f with the name of each member of an object. f reads the value, or leaves it to be
// stepped over.
func (r *Reader) Members(f func(name []byte)) {
	if !r.enter('{') {
		return
	}
	for !r.leave('}') {
		name := r.Text()
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

// Elements calls f with the index of each element of an array. f reads the element.
func (r *Reader) Elements(f func(index int)) {
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

// Text reads a string. The bytes are the document's own, unless they are escaped or no UTF-8.
func (r *Reader) Text() []byte {
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

// SkipText steps over a string, and finds whether it is one.
func (r *Reader) SkipText() {
	if value := r.Value(); value[0] != '"' && value[0] != 'n' {
		r.mismatch("a string")
	}
}

// Bool reads true or false.
func (r *Reader) Bool() bool {
	r.space()
	kind := r.data[r.pos]
	if r.skip(); kind != 't' && kind != 'f' && kind != 'n' {
		r.mismatch("true or false")
	}
	return kind == 't'
}

// Value reads any value, as it is written.
func (r *Reader) Value() Valid {
	r.space()
	start := r.pos
	r.skip()
	return r.data[start:r.pos]
}

// During returns the value that read reads, as it is written.
func (r *Reader) During(read func()) Valid {
	r.space()
	start := r.pos
	read()
	return r.data[start:r.pos]
}

// enter reports whether an object or array begins here, and steps into it.
func (r *Reader) enter(bracket byte) bool {
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

// leave reports whether the object or array ends here, and steps out of it or to the next element.
func (r *Reader) leave(bracket byte) bool {
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
func (r *Reader) skip() {
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

func (r *Reader) skipString() {
	for r.pos++; r.data[r.pos] != '"'; r.pos++ {
		if r.data[r.pos] == '\\' {
			r.pos++
		}
	}
	r.pos++
}

func (r *Reader) space() {
	for r.pos < len(r.data) {
		switch r.data[r.pos] {
		case ' ', '\t', '\r', '\n':
			r.pos++
		default:
			return
		}
	}
}

func (r *Reader) mismatch(want string) {
	if r.err == nil {
		r.err = fmt.Errorf("is not %s", want)
	}
}
