package metrics

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/client-go/rest"
)

func TestOfProgram(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) }))
	registry := prometheus.NewRegistry()
	cfg := &rest.Config{Host: server.URL}
	if err := OfProgram(registry, "broker", cfg); err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	post := func(path string) {
		if response, err := client.Post(server.URL+path, "application/json", http.NoBody); err == nil {
			response.Body.Close()
		}
	}
	post("/apis/authentication.k8s.io/v1/tokenreviews")
	post("/apis/authentication.k8s.io/v1/tokenreviews")
	post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
	post("/api/v1/namespaces/app/secrets/planted-name")
	server.Close()
	post("/apis/authorization.k8s.io/v1/subjectaccessreviews")

	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == "keyferry_reviews_total" {
				got = append(got, label(metric, "resource")+" "+label(metric, "code")+" "+metric.GetCounter().String())
			}
		}
	}
	want := []string{"subjectaccessreviews 0 value:1", "subjectaccessreviews 201 value:1", "tokenreviews 201 value:2"}
	if !slices.EqualFunc(got, want, func(g, w string) bool { return g == w || len(g) > len(w) && g[:len(w)] == w }) {
		t.Errorf("counted %q, want %q", got, want)
	}
	if err := OfProgram(registry, "broker", cfg); err == nil {
		t.Error("registered twice without an error")
	}
}

func label(metric *dto.Metric, name string) string {
	for _, pair := range metric.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}
