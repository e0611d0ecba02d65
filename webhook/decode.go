package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector/jsonview"
)

// What the API server sends, and gets back.
const (
	reviewVersion = "admission.k8s.io/v1"
	reviewKind    = "AdmissionReview"
)

// request is as much of an AdmissionRequest as is read. Its objects are parts of what was read from
// the API server, whose memory is used again once the answer is written.
type request struct {
	uid         types.UID
	kind        string
	resource    metav1.GroupVersionResource
	subResource string
	namespace   string
	name        string
	operation   admissionv1.Operation
	dryRun      bool
	// object and oldObject are empty if there is none.
	object, oldObject jsonview.Valid
}

// scratch is the memory that one exchange needs, and the next one can use.
type scratch struct {
	body, patch bytes.Buffer
	encoder     *json.Encoder // into patch
	request     request
}

// maxScratch is what is kept of it: most Pods have less than 20 KB.
const maxScratch = 256 << 10

func (h *Handler) takeScratch() *scratch {
	if s, ok := h.scratches.Get().(*scratch); ok {
		return s
	}
	s := new(scratch)
	s.encoder = json.NewEncoder(&s.patch)
	return s
}

func (h *Handler) giveBack(s *scratch) {
	if s.body.Cap()+s.patch.Cap() > maxScratch {
		return
	}
	s.body.Reset()
	s.patch.Reset()
	s.request = request{}
	h.scratches.Put(s)
}

// decodeReview reads a review into memory and what is wanted out of it. With an error comes the
// HTTP status for it.
func decodeReview(body io.Reader, memory *scratch) (*request, int, error) {
	if _, err := memory.body.ReadFrom(body); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("reading AdmissionReview: %w", err)
		}
		return nil, http.StatusBadRequest, fmt.Errorf("reading AdmissionReview: %w", err)
	}
	raw, err := jsonview.Check(memory.body.Bytes())
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("decoding AdmissionReview: %w", err)
	}
	var version, kind []byte
	var asked *request
	r := raw.Read()
	r.Members(func(name []byte) {
		switch string(name) {
		case "apiVersion":
			version = r.Text()
		case "kind":
			kind = r.Text()
		case "request":
			asked = &memory.request
			asked.read(r)
		}
	})
	if err := r.Err(); err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("decoding AdmissionReview: %w", err)
	}
	if string(version) != reviewVersion || string(kind) != reviewKind || asked == nil {
		return nil, http.StatusBadRequest, fmt.Errorf("want an %s of %s with a request, got kind %q of %q", reviewKind, reviewVersion, kind, version)
	}
	return asked, 0, nil
}

func (q *request) read(r *jsonview.Reader) {
	r.Members(func(name []byte) {
		switch string(name) {
		case "uid":
			q.uid = types.UID(r.Text())
		case "kind":
			r.Members(func(part []byte) {
				if string(part) == "kind" {
					q.kind = word(r.Text(), "Pod")
				}
			})
		case "resource":
			r.Members(func(part []byte) {
				switch string(part) {
				case "group":
					q.resource.Group = string(r.Text())
				case "version":
					q.resource.Version = word(r.Text(), "v1")
				case "resource":
					q.resource.Resource = word(r.Text(), "pods")
				}
			})
		case "subResource":
			q.subResource = string(r.Text())
		case "namespace":
			q.namespace = string(r.Text())
		case "name":
			q.name = string(r.Text())
		case "operation":
			q.operation = admissionv1.Operation(word(r.Text(), string(admissionv1.Create)))
		case "dryRun":
			q.dryRun = r.Bool()
		case "object":
			q.object = object(r)
		case "oldObject":
			q.oldObject = object(r)
		}
	})
}

// word returns text, without a copy if it is the usual one.
func word(text []byte, usual string) string {
	if string(text) == usual {
		return usual
	}
	return string(text)
}

// object reads one, or nothing where it is null.
func object(r *jsonview.Reader) jsonview.Valid {
	if raw := r.Value(); string(raw) != "null" {
		return raw
	}
	return nil
}
