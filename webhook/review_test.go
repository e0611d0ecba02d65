package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/injector/jsonview"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/use"
)

// shelf is a reader that returns the TargetClusters in it.
type shelf map[string]*v1alpha1.TargetCluster

func (s shelf) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	found, ok := s[key.String()]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "targetclusters"}, key.Name)
	}
	into, ok := object.(*v1alpha1.TargetCluster)
	if !ok {
		return fmt.Errorf("not on the shelf: %T", object)
	}
	found.DeepCopyInto(into)
	return nil
}

func (shelf) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("nothing lists")
}

// broken is a reader whose calls fail.
type broken struct{ client.Reader }

func (broken) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return errors.New("connection refused")
}

func tenant1(status v1alpha1.TargetClusterStatus) *v1alpha1.TargetCluster {
	return &v1alpha1.TargetCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "tenant-1", Generation: 1}, Status: status}
}

// unlocked is a cluster without locks.
func unlocked(context.Context, locks.Access) (*locks.Lock, error) { return nil, nil }

// testHandler returns a handler for which every ServiceAccount may use the TargetCluster
// fleet/tenant-1.
func testHandler(t testing.TB, change func(*Config)) *Handler {
	t.Helper()
	there := shelf{"fleet/tenant-1": tenant1(ready())}
	cfg := Config{
		Injection:     injection(),
		Cached:        there,
		Live:          there,
		MayUse:        func(context.Context, types.NamespacedName, use.Object) (bool, error) { return true, nil },
		FindLock:      unlocked,
		Providers:     func() *clusterprofile.ProviderFile { return nil },
		EnvFromFile:   func() bool { return false },
		ImageVolume:   func() bool { return false },
		BrokerAddress: func(context.Context) (string, error) { return "", errors.New("no such host") },
		Metrics:       prometheus.NewRegistry(),
	}
	if change != nil {
		change(&cfg)
	}
	h, err := New(cfg)
	must(t, err)
	return h
}

// reviewOf returns the body of a review of the creation of an object.
func reviewOf(t testing.TB, resource metav1.GroupVersionResource, object any) []byte {
	t.Helper()
	raw, err := json.Marshal(object)
	must(t, err)
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "705ab4f5", Resource: resource, Namespace: "shop", Operation: admissionv1.Create, DryRun: new(true), Object: runtime.RawExtension{Raw: raw},
		},
	})
	must(t, err)
	return body
}

func podReview(t testing.TB, object any) []byte {
	t.Helper()
	return reviewOf(t, metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, object)
}

func post(h http.Handler, path string, body []byte) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, path+"?timeout=10s", bytes.NewReader(body)))
	return recorder
}

// ask posts the review of a Pod and returns the response.
func ask(t testing.TB, h http.Handler, body []byte) *admissionv1.AdmissionResponse {
	t.Helper()
	recorder := post(h, PathPods, body)
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(recorder.Body.Bytes(), &review); err != nil || recorder.Code != http.StatusOK || review.Response == nil {
		t.Fatalf("got %d %s", recorder.Code, recorder.Body)
	}
	if review.APIVersion != "admission.k8s.io/v1" || review.Kind != "AdmissionReview" || review.Response.UID != "705ab4f5" {
		t.Errorf("got a %s of %s for %s", review.Kind, review.APIVersion, review.Response.UID)
	}
	return review.Response
}

// reviewUpdate reviews an update of a Deployment.
func reviewUpdate(t *testing.T, is, was *appsv1.Deployment) (answer, error) {
	t.Helper()
	request := &request{namespace: "shop", operation: admissionv1.Update, held: reservation{bytes: math.MaxInt}}
	for object, into := range map[*appsv1.Deployment]*jsonview.Valid{is: &request.object, was: &request.oldObject} {
		raw, err := json.Marshal(object)
		must(t, err)
		*into = raw
	}
	return testHandler(t, nil).reviewWorkload(t.Context(), request)
}

func TestAnswer(t *testing.T) {
	registry := prometheus.NewRegistry()
	h := testHandler(t, func(cfg *Config) { cfg.Metrics = registry })
	got := ask(t, h, podReview(t, pod("", annotated("cluster", "fleet/tenant-1"))))
	var operations []injector.Operation
	if err := json.Unmarshal(got.Patch, &operations); err != nil || len(operations) == 0 {
		t.Errorf("patch %s: %v", got.Patch, err)
	}
	if !got.Allowed || got.PatchType == nil || *got.PatchType != admissionv1.PatchTypeJSONPatch {
		t.Errorf("got %+v", got)
	}
	if got := ask(t, h, podReview(t, pod("", nil))); !got.Allowed || got.Patch != nil || got.PatchType != nil {
		t.Errorf("for a Pod that asks for nothing: %+v", got)
	}
	if got := ask(t, h, podReview(t, pod("", annotated("typo", "")))); got.Allowed || got.Patch != nil || got.Result.Reason != metav1.StatusReasonInvalid {
		t.Errorf("for a misspelled annotation: %+v", got)
	}
	want := []string{"allowed Injected pods 1", "allowed NotAsked pods 1", "denied InvalidAnnotation pods 1"}
	if got := counted(t, registry); !slices.Equal(got, want) {
		t.Errorf("counted %q, want %q", got, want)
	}
}

// counted returns the labels and values of the request counters.
func counted(t *testing.T, registry *prometheus.Registry) []string {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	var lines []string
	for _, family := range families {
		if family.GetName() != "keyferry_admission_requests_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			var line strings.Builder
			for _, label := range metric.GetLabel() {
				line.WriteString(label.GetValue() + " ")
			}
			lines = append(lines, fmt.Sprint(line.String(), metric.GetCounter().GetValue()))
		}
	}
	return lines
}

func TestRequestsThatAreNoReviews(t *testing.T) {
	h := testHandler(t, nil)
	for name, c := range map[string]struct {
		path, body string
		code       int
	}{
		"no JSON":        {PathPods, "{", http.StatusBadRequest},
		"empty":          {PathWorkloads, "", http.StatusBadRequest},
		"other version":  {PathPods, `{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"1"}}`, http.StatusBadRequest},
		"no request":     {PathPods, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, http.StatusBadRequest},
		"other path":     {"/convert", "{}", http.StatusNotFound},
		"long UID":       {PathPods, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"` + strings.Repeat("<", maxText+1) + `"}}`, http.StatusBadRequest},
		"no UTF-8":       {PathPods, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"object":"` + "\xff" + `"}}`, http.StatusBadRequest},
		"long kind":      {PathPods, `{"kind":"` + strings.Repeat("<", hostileSize) + `"}`, http.StatusBadRequest},
		"too much of it": {PathPods, `{"apiVersion":"` + strings.Repeat("a", maxBody) + `"}`, http.StatusRequestEntityTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			if got := post(h, c.path, []byte(c.body)); got.Code != c.code || got.Body.Len() > 1000 {
				t.Errorf("got %d %.1000s, want %d", got.Code, got.Body, c.code)
			}
		})
	}
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, PathPods, http.NoBody))
	if recorder.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", recorder.Code)
	}
}

// TestFailuresAreClosed checks that a request is denied if its review fails.
func TestFailuresAreClosed(t *testing.T) {
	asking := podReview(t, pod("", annotated("cluster", "fleet/tenant-1")))
	for name, c := range map[string]struct {
		change  func(*Config)
		message string
	}{
		"access review fails": {func(cfg *Config) {
			cfg.MayUse = func(context.Context, types.NamespacedName, use.Object) (bool, error) {
				return true, errors.New("no answer")
			}
		}, "checking whether ServiceAccount shop/default may use TargetCluster fleet/tenant-1: no answer"},
		"read fails": {func(cfg *Config) { cfg.Cached, cfg.Live = broken{}, broken{} }, "reading TargetCluster fleet/tenant-1: connection refused"},
		"panic":      {func(cfg *Config) { cfg.EnvFromFile = nilFunc() }, "panic: "},
	} {
		t.Run(name, func(t *testing.T) {
			h := testHandler(t, nil)
			c.change(&h.Config)
			got := ask(t, h, asking)
			if got.Allowed || got.Patch != nil || got.Result.Code != http.StatusInternalServerError || !strings.Contains(got.Result.Message, c.message) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func nilFunc() func() bool { return nil }

func TestOnlyCreationOfPods(t *testing.T) {
	h := testHandler(t, nil)
	for name, change := range map[string]func(*admissionv1.AdmissionRequest){
		"update":      func(r *admissionv1.AdmissionRequest) { r.Operation = admissionv1.Update },
		"subresource": func(r *admissionv1.AdmissionRequest) { r.SubResource = "ephemeralcontainers" },
		"other kind":  func(r *admissionv1.AdmissionRequest) { r.Resource.Resource = "podtemplates" },
		"no object":   func(r *admissionv1.AdmissionRequest) { r.Object.Raw = nil },
	} {
		t.Run(name, func(t *testing.T) {
			var review admissionv1.AdmissionReview
			must(t, json.Unmarshal(podReview(t, pod("", annotated("cluster", "fleet/tenant-1"))), &review))
			change(review.Request)
			body, err := json.Marshal(review)
			must(t, err)
			if got := ask(t, h, body); got.Allowed {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestNewNeedsWhatItSays(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"image":         func(c *Config) { c.Injection.Image = "" },
		"broker":        func(c *Config) { c.Injection.BrokerURL = "" },
		"cache":         func(c *Config) { c.Cached = nil },
		"live reader":   func(c *Config) { c.Live = nil },
		"access":        func(c *Config) { c.MayUse = nil },
		"providers":     func(c *Config) { c.Providers = nil },
		"env from file": func(c *Config) { c.EnvFromFile = nil },
		"image volumes": func(c *Config) { c.ImageVolume = nil },
		"address":       func(c *Config) { c.BrokerAddress = nil },
		"metrics":       func(c *Config) { c.Metrics = nil },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testHandler(t, nil).Config
			cfg.Metrics = prometheus.NewRegistry()
			change(&cfg)
			if _, err := New(cfg); err == nil {
				t.Error("no error")
			}
		})
	}
}
