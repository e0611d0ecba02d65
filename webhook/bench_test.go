package webhook

import (
	"encoding/json"
	"net/http"
	"os"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
)

// BenchmarkAdmission is from the body of a review to the bytes of the answer; BenchmarkFullDecode is what a handler would pay that
// only decodes the review and the Pod in it.
func BenchmarkAdmission(b *testing.B) {
	h, body := testHandler(b, nil), benchmarkReview(b)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if got := post(h, PathPods, body); got.Code != http.StatusOK {
			b.Fatal(got.Body)
		}
	}
}

func BenchmarkFullDecode(b *testing.B) {
	body := benchmarkReview(b)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		var review admissionv1.AdmissionReview
		must(b, json.Unmarshal(body, &review))
		var pod corev1.Pod
		must(b, json.Unmarshal(review.Request.Object.Raw, &pod))
	}
}

func benchmarkReview(b *testing.B) []byte {
	b.Helper()
	raw, err := os.ReadFile("../injector/testdata/benchmark.json")
	must(b, err)
	return podReview(b, json.RawMessage(raw))
}
