package injector_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestPortsOfTheSidecar: a container that declares a port at which the refresher listens gets a
// warning. MicroK8s, for one, has its API server at port 16443.
func TestPortsOfTheSidecar(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ annotations, ports, want string }{
		"proxy":              {"keyferry.dev/delivery: proxy", "[{containerPort: 80}, {containerPort: 16443}]", "container app declares port 16443, on which container keyferry-refresher listens (delivery by proxy)"},
		"proxy, with TCP":    {"keyferry.dev/delivery: proxy", "[{containerPort: 16443, protocol: TCP}]", "container app declares port 16443"},
		"proxy, with UDP":    {"keyferry.dev/delivery: proxy", "[{containerPort: 16443, protocol: UDP}]", ""},
		"proxy, other port":  {"keyferry.dev/delivery: proxy", "[{containerPort: 16444}]", ""},
		"direct":             {"keyferry.dev/delivery: direct", "[{containerPort: 16443}]", ""},
		"further cluster":    {"keyferry.dev/clusters: fleet/tenant-2", "[{containerPort: 16444}]", "container app declares port 16444, on which container keyferry-refresher listens (annotation keyferry.dev/clusters)"},
		"metrics":            {"keyferry.dev/metrics-port: '9100'", "[{containerPort: 9100, name: metrics}]", "container app declares port 9100, on which container keyferry-refresher listens (annotation keyferry.dev/metrics-port)"},
		"metrics, elsewhere": {"keyferry.dev/metrics-port: '9100'", "[{containerPort: 9101}]", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := "{metadata: {namespace: shop, annotations: {keyferry.dev/cluster: fleet/tenant-1, " + test.annotations + "}}, " +
				"spec: {containers: [{name: app, image: a, ports: " + test.ports + "}]}}"
			raw, err := yaml.YAMLToJSON([]byte(pod))
			if err != nil {
				t.Fatal(err)
			}
			result, err := defaultInstallation().inject(raw)
			if err != nil {
				t.Fatal(err)
			}
			warnings := strings.Join(result.Warnings, "\n")
			if isWarned := strings.Contains(warnings, "declares port"); isWarned != (test.want != "") || !strings.Contains(warnings, test.want) {
				t.Errorf("got %q, want %q", warnings, test.want)
			}
		})
	}
}
