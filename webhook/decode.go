package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"unicode/utf8"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector/jsonview"
)

// The version and kind of requests and responses.
const (
	reviewVersion = "admission.k8s.io/v1"
	reviewKind    = "AdmissionReview"
)

// maxText is the longest text of a request besides its objects, such as its name or UID, in bytes.
// It is more than Kubernetes allows, so that the API server reports invalid names itself.
const maxText = 1 << 10

// request contains the fields of an AdmissionRequest that are read. Its objects share memory with
// the request's body, which the next request reuses.
type request struct {
	uid         types.UID
	kind        string
	resource    metav1.GroupVersionResource
	subResource string
	namespace   string
	name        string
	operation   admissionv1.Operation
	dryRun      bool
	// object and oldObject are empty if the request has none.
	object, oldObject jsonview.Valid

	// held is the memory for the review of a Pod.
	held reservation
}

// scratch is memory that a request needs and that later requests reuse.
type scratch struct {
	body, patch bytes.Buffer
	encoder     *json.Encoder // writes to patch
	request     request
}

func (s *scratch) size() int { return s.body.Cap() + s.patch.Cap() }

// maxScratch is the largest scratch, in bytes, that is kept for reuse. Most Pods have less than 20
// KB.
const maxScratch = 256 << 10

// takeScratch returns a scratch for a request that holds this number of bytes. A larger scratch
// would keep memory that is not counted for the request.
func (h *Handler) takeScratch(bytes int64) *scratch {
	if s, ok := h.scratches.Get().(*scratch); ok && int64(s.size()) <= bytes {
		return s
	}
	s := new(scratch)
	s.encoder = json.NewEncoder(&s.patch)
	s.encoder.SetEscapeHTML(false) // it would make a < six times as long
	return s
}

func (h *Handler) putScratch(s *scratch) {
	if s.size() > maxScratch {
		return
	}
	s.body.Reset()
	s.patch.Reset()
	s.request = request{}
	h.scratches.Put(s)
}

// decodeReview reads a review into memory and decodes the request. With an error, it returns the
// HTTP status.
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
	if !utf8.Valid(raw) { // invalid bytes take three times the memory when they are decoded
		return nil, http.StatusBadRequest, errors.New("decoding AdmissionReview: the body is not UTF-8")
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
		return nil, http.StatusBadRequest, fmt.Errorf("the body has kind %.100[3]q of %.100[4]q, but it must be an %[1]s of %[2]s with a request", reviewKind, reviewVersion, kind, version)
	}
	for _, text := range []string{
		string(asked.uid), asked.kind, asked.resource.Group, asked.resource.Version, asked.resource.Resource,
		asked.subResource, asked.namespace, asked.name, string(asked.operation),
	} {
		if len(text) > maxText {
			return nil, http.StatusBadRequest, fmt.Errorf("decoding AdmissionReview: request: a text has %d bytes, but at most %d are possible", len(text), maxText)
		}
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
					q.kind = intern(r.Text(), "Pod")
				}
			})
		case "resource":
			r.Members(func(part []byte) {
				switch string(part) {
				case "group":
					q.resource.Group = string(r.Text())
				case "version":
					q.resource.Version = intern(r.Text(), "v1")
				case "resource":
					q.resource.Resource = intern(r.Text(), "pods")
				}
			})
		case "subResource":
			q.subResource = string(r.Text())
		case "namespace":
			q.namespace = string(r.Text())
		case "name":
			q.name = string(r.Text())
		case "operation":
			q.operation = admissionv1.Operation(intern(r.Text(), string(admissionv1.Create)))
		case "dryRun":
			q.dryRun = r.Bool()
		case "object":
			q.object = object(r)
		case "oldObject":
			q.oldObject = object(r)
		}
	})
}

// intern returns text as a string. It copies nothing if text is the usual value.
func intern(text []byte, usual string) string {
	if string(text) == usual {
		return usual
	}
	return string(text)
}

// object returns the JSON of an object; nil if it is null.
func object(r *jsonview.Reader) jsonview.Valid {
	if raw := r.Value(); string(raw) != "null" {
		return raw
	}
	return nil
}
