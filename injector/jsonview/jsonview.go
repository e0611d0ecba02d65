// Package jsonview reads parts of a JSON document without decoding the rest.
//
// An admission needs a tenth of its request. Decoding that tenth into structs with encoding/json
// takes twice as long as the rest of the admission, and allocates several times as often.
package jsonview

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Valid is well-formed JSON.
type Valid []byte

// Check returns data as Valid, or an error if it is not JSON.
func Check(data []byte) (Valid, error) {
	if !json.Valid(data) {
		if err := json.Unmarshal(data, new(any)); err != nil {
			return nil, err
		}
		return nil, errors.New("invalid JSON")
	}
	return data, nil
}

// Reader reads values one after the other. The syntax is known to be valid, so only the type of a
// value can be wrong, which Err reports. A null is treated as if it were absent.
type Reader struct {
	data []byte
	pos  int
	err  error
}

// Read returns a Reader at the beginning of v.
func (v Valid) Read() *Reader { return &Reader{data: v} }

// Err returns the first value that has another type than the caller read, with its path; nil if all
// types match.
func (r *Reader) Err() error { return r.err }

// Members calls f with the name of each member of an object. f reads the value; if it does not,
// Members skips the value.
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
			r.err = fmt.Errorf("%.100s: %w", name, r.err)
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

// Text reads a string. The result shares memory with the document, unless the string has escapes or
// is not valid UTF-8.
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

// SkipText skips a value, and reports a mismatch if it is not a string.
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

// Kind returns the first byte of the next value, such as { or ".
func (r *Reader) Kind() byte {
	r.space()
	return r.data[r.pos]
}

// Value returns the JSON of any value.
func (r *Reader) Value() Valid {
	r.space()
	start := r.pos
	r.skip()
	return r.data[start:r.pos]
}

// During calls read, and returns the JSON of the value that it reads.
func (r *Reader) During(read func()) Valid {
	r.space()
	start := r.pos
	read()
	return r.data[start:r.pos]
}

// enter steps into an object or array; it reports false if the next value is neither.
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

// leave reports whether the object or array ends here. It steps out of it, or to the next element.
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

// skip skips a value.
func (r *Reader) skip() {
	r.space()
	for depth := 0; r.pos < len(r.data); {
		switch r.data[r.pos] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return // the end of the list or object around a number, true, false or null
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
