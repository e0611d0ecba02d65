package main

import (
	"maps"
	"strings"
	"testing"
)

func TestReadResults(t *testing.T) {
	var log strings.Builder
	results, err := readResults(strings.NewReader(`{"Action":"start","Package":"e2e"}
{"Action":"output","Package":"e2e","Output":"using the clusters that are up\n"}
{"Action":"run","Test":"TestProxy"}
{"Action":"output","Test":"TestProxy/exec","Output":"        proxy_test.go:12: a line\n"}
{"Action":"pass","Test":"TestProxy/exec"}
{"Action":"pass","Test":"TestProxy"}
{"Action":"output","Test":"TestEndpointMove","Output":"    disruption_test.go:9: compatibility: by a restart in place\n"}
{"Action":"pass","Test":"TestEndpointMove"}
{"Action":"fail","Test":"TestFederation/sub"}
{"Action":"fail","Test":"TestFederation"}
{"Action":"run","Test":"TestStillRunning"}
{"Action":"fail","Package":"e2e"}
`), &log)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]testRecord{"TestProxy": {Result: "pass"}, "TestEndpointMove": {Result: "pass", Note: "by a restart in place"}, "TestFederation": {Result: "fail"}}
	if !maps.Equal(results, want) {
		t.Errorf("got %v, want %v", results, want)
	}
	if !strings.HasPrefix(log.String(), "using the clusters that are up\n        proxy_test.go:12: a line\n") {
		t.Errorf("printed\n%s", log.String())
	}
}

func TestPut(t *testing.T) {
	r := record{Runs: []runRecord{{Management: "v1.30.14", Target: "v1.30.14", Date: "2026-01-01"}, {Management: "v1.30.14", Target: "v1.37.2"}}}
	r.put(runRecord{Management: "v1.30.14", Target: "v1.30.14", Date: "2026-02-02"})
	r.put(runRecord{Management: "v1.37.2", Target: "v1.30.14"})
	if len(r.Runs) != 3 || r.Runs[0].Date != "2026-02-02" || r.Runs[2].Management != "v1.37.2" {
		t.Errorf("got %+v", r.Runs)
	}
}
