package jsonview

import (
	"encoding/json"
	"strings"
	"testing"
)

// read renders a document with the Reader's method for each kind of value. The result must equal
// the document.
func read(r *Reader, out *strings.Builder) {
	kind := r.data[r.pos:]
	switch trimmed := strings.TrimLeft(string(kind), " \t\r\n"); trimmed[0] {
	case '{':
		separator := "{"
		r.Members(func(name []byte) {
			key, _ := json.Marshal(string(name))
			out.WriteString(separator + string(key) + ":")
			separator = ","
			read(r, out)
		})
		out.WriteString(strings.TrimPrefix(separator, ",") + "}")
	case '[':
		separator := "["
		r.Elements(func(int) {
			out.WriteString(separator)
			separator = ","
			read(r, out)
		})
		out.WriteString(strings.TrimPrefix(separator, ",") + "]")
	case '"':
		text, _ := json.Marshal(string(r.Text()))
		out.Write(text)
	default:
		out.Write(r.Value())
	}
}

// normal returns a document as encoding/json writes it, with the same order of members.
func normal(t *testing.T, document string) string {
	t.Helper()
	checked, err := Check([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	r := checked.Read()
	var out strings.Builder
	read(r, &out)
	if err := r.Err(); err != nil {
		t.Errorf("%s: %v", document, err)
	}
	return out.String()
}

func TestReadsAll(t *testing.T) {
	for document, want := range map[string]string{
		`{}`:                          `{}`,
		` [ ] `:                       `[]`,
		`"a\"\\\u00e9\ud83d\ude00]}"`: `"a\"\\é😀]}"`,
		"{ \"a\" : [ 1 , -2.5e3,true ,null,{\"b\" : \"]\"} ]\n,\t\"c\":{\"d\":[[],{}]} }": `{"a":[1,-2.5e3,true,null,{"b":"]"}],"c":{"d":[[],{}]}}`,
		"\"\xff\"": "\"\ufffd\"",
	} {
		if got := normal(t, document); got != want {
			t.Errorf("%s is read as %s, want %s", document, got, want)
		}
	}
}

// TestStepsOver checks that values which are not read are skipped, wherever they are.
func TestStepsOver(t *testing.T) {
	for _, other := range []string{`0`, `"}\\\""`, `{"b":[{"wanted":"no"}],"c":"]"}`, `[[],"[",{}]`, `null`, `false`} {
		checked, err := Check([]byte(`{"x":` + other + `,"wanted":"yes" , "y": ` + other + ` }`))
		if err != nil {
			t.Fatal(err)
		}
		r := checked.Read()
		var got []string
		r.Members(func(name []byte) {
			if string(name) == "wanted" {
				got = append(got, string(r.Text()))
			}
		})
		if r.Err() != nil || len(got) != 1 || got[0] != "yes" || r.pos != len(checked) {
			t.Errorf("beside %s: %q, %v, up to %d of %d", other, got, r.Err(), r.pos, len(checked))
		}
	}
}

// TestMismatch checks that Err returns the first value of another type with its path, and that
// later values can be read.
func TestMismatch(t *testing.T) {
	for document, want := range map[string]string{
		`{"spec":{"hostNetwork":"yes"},"name":"n"}`:   "spec: hostNetwork: is not true or false",
		`{"spec":[{"hostNetwork":true}],"name":"n"}`:  "spec: is not an object",
		`{"spec":{"volumes":{}},"name":"n"}`:          "spec: volumes: is not a list",
		`{"spec":{"serviceAccount":[1]},"name":"n"}`:  "spec: serviceAccount: is not a string",
		`{"spec":{"annotation":{"a":1}},"name":"n"}`:  "spec: annotation: is not a string",
		`{"spec":{"hostNetwork":null},"name":"n"}`:    "",
		`{"spec":null,"name":"n"}`:                    "",
		`{"spec":{"volumes":null, "x":1},"name":"n"}`: "",
		`{"spec":{"serviceAccount":null},"name":"n"}`: "",
	} {
		checked, err := Check([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		r := checked.Read()
		var after string
		r.Members(func(name []byte) {
			switch string(name) {
			case "spec":
				r.Members(func(name []byte) {
					switch string(name) {
					case "hostNetwork":
						r.Bool()
					case "volumes":
						r.Elements(func(int) {})
					case "serviceAccount":
						r.Text()
					case "annotation":
						r.SkipText()
					}
				})
			case "name":
				after = string(r.Text())
			}
		})
		got := ""
		if r.Err() != nil {
			got = r.Err().Error()
		}
		if got != want || after != "n" {
			t.Errorf("%s: %q, want %q; then %q", document, got, want, after)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, document := range []string{"", "{", `{"a":1,}`, `{"a" 1}`, `"\x"`, "nul", "1 2", strings.Repeat("[", 20000)} {
		if _, err := Check([]byte(document)); err == nil {
			t.Errorf("%.20s is taken for JSON", document)
		}
	}
}
