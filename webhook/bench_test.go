package webhook

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
)

// BenchmarkAdmission measures a review, from the body of the request to the body of the response.
// BenchmarkFullDecode measures only decoding the review and its whole Pod, for comparison.
func BenchmarkAdmission(b *testing.B) {
	forSizes(b, func(b *testing.B, body []byte) {
		a := newAdmission(b, body)
		for b.Loop() {
			a.run(b)
		}
	})
}

// BenchmarkAdmissionParallel is for several processors (-cpu).
func BenchmarkAdmissionParallel(b *testing.B) {
	collectAsProgram(b)
	body := benchmarkReview(b, 7<<10)
	b.RunParallel(func(loop *testing.PB) {
		a := newAdmission(b, body)
		for loop.Next() {
			a.run(b)
		}
	})
}

func BenchmarkFullDecode(b *testing.B) {
	forSizes(b, func(b *testing.B, body []byte) {
		for b.Loop() {
			fullDecode(b, body)
		}
	})
}

// BenchmarkFullDecodeParallel shows how much this machine gains from several processors.
func BenchmarkFullDecodeParallel(b *testing.B) {
	collectAsProgram(b)
	body := benchmarkReview(b, 7<<10)
	b.RunParallel(func(loop *testing.PB) {
		for loop.Next() {
			fullDecode(b, body)
		}
	})
}

func fullDecode(b *testing.B, body []byte) {
	b.Helper()
	var review admissionv1.AdmissionReview
	must(b, json.Unmarshal(body, &review))
	var pod corev1.Pod
	must(b, json.Unmarshal(review.Request.Object.Raw, &pod))
}

// collectAsProgram sets the pace of garbage collection like the program.
func collectAsProgram(b *testing.B) {
	b.Helper()
	before := debug.SetGCPercent(GCPercent)
	b.Cleanup(func() { debug.SetGCPercent(before) })
}

func forSizes(b *testing.B, bench func(*testing.B, []byte)) {
	b.Helper()
	collectAsProgram(b)
	for name, size := range map[string]int{"7KB": 7 << 10, "63KB": 63 << 10} {
		b.Run(name, func(b *testing.B) {
			body := benchmarkReview(b, size)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			bench(b, body)
		})
	}
}

// benchmarkReview returns a review of a Pod with the given size. It repeats the Pod's four
// containers as needed.
func benchmarkReview(b *testing.B, size int) []byte {
	b.Helper()
	raw, err := os.ReadFile("../injector/testdata/benchmark.json")
	must(b, err)
	var pod corev1.Pod
	must(b, json.Unmarshal(raw, &pod))
	containers := slices.Clone(pod.Spec.Containers)
	for {
		body := podReview(b, &pod)
		if len(body) >= size {
			return body
		}
		another := containers[len(pod.Spec.Containers)%len(containers)]
		another.Name += string(rune('a'+len(pod.Spec.Containers)/26)) + string(rune('a'+len(pod.Spec.Containers)%26))
		pod.Spec.Containers = append(pod.Spec.Containers, another)
	}
}

// admission is a handler with a request and a writer whose own cost is negligible.
type admission struct {
	handler http.Handler
	request *http.Request
	body    []byte
	reader  bytes.Reader
	header  http.Header
	answer  bytes.Buffer
	code    int
}

func newAdmission(b *testing.B, body []byte) *admission {
	b.Helper()
	a := &admission{handler: testHandler(b, nil), body: body, header: http.Header{}}
	a.request = httptest.NewRequest(http.MethodPost, PathPods+"?timeout=10s", http.NoBody)
	a.request.ContentLength = int64(len(body))
	a.request.Body = io.NopCloser(&a.reader)
	return a
}

func (a *admission) run(b *testing.B) {
	a.reader.Reset(a.body)
	a.answer.Reset()
	clear(a.header)
	a.code = http.StatusOK
	a.handler.ServeHTTP(a, a.request)
	if a.code != http.StatusOK || !bytes.Contains(a.answer.Bytes(), []byte(`"patch"`)) {
		b.Fatalf("code %d: %s", a.code, &a.answer)
	}
}

func (a *admission) Header() http.Header            { return a.header }
func (a *admission) Write(part []byte) (int, error) { return a.answer.Write(part) }

// A server's writer has these methods, too.
func (a *admission) SetReadDeadline(time.Time) error  { return nil }
func (a *admission) SetWriteDeadline(time.Time) error { return nil }

func (a *admission) WriteHeader(code int) { a.code = code }
