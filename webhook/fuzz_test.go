package webhook

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	"sigs.k8s.io/yaml"
)

// FuzzReview checks that every body gets a response: a review that allows the request with a valid
// patch, or an error with a reason.
func FuzzReview(f *testing.F) {
	files, err := filepath.Glob("../injector/testdata/inject/*.yaml")
	must(f, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(f, err)
		raw, err := yaml.YAMLToJSON(text)
		must(f, err)
		f.Add(podReview(f, json.RawMessage(raw)), true)
	}
	for _, body := range []string{
		``, `null`, `[]`, `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}`,
		`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{}}`,
		`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"operation":"CREATE","object":null}}`,
		`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"operation":"CREATE","object":{"metadata":{"annotations":{"keyferry.dev/cluster":"fleet/tenant-1"}},"spec":{"containers":[null]}}}}`,
		`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"operation":"UPDATE","oldObject":{"spec":{}},"object":{"metadata":{"annotations":{"keyferry.dev/x":"\u0000"}},"spec":{"template":[]}}}}`,
	} {
		f.Add([]byte(body), true)
		f.Add([]byte(body), false)
	}
	h := testHandler(f, nil)
	f.Fuzz(func(t *testing.T, body []byte, pod bool) {
		path := PathWorkloads
		if pod {
			path = PathPods
		}
		got := post(h, path, body)
		if got.Code == http.StatusBadRequest {
			return
		}
		var review admissionv1.AdmissionReview
		if err := json.Unmarshal(got.Body.Bytes(), &review); err != nil || got.Code != http.StatusOK || review.Response == nil {
			t.Fatalf("got %d %s", got.Code, got.Body)
		}
		switch answer := review.Response; {
		case answer.Allowed && len(answer.Patch) > 0 && !json.Valid(answer.Patch):
			t.Errorf("the patch is %s", answer.Patch)
		case !answer.Allowed && (answer.Result == nil || answer.Result.Message == "" || strings.Contains(answer.Result.Message, "panic")):
			t.Errorf("refused with %+v", answer.Result)
		case !pod && len(answer.Patch) > 0:
			t.Errorf("a workload is changed: %s", answer.Patch)
		}
	})
}
