package injector_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/endpoint/endpointtest"
	"github.com/keyferry/keyferry/injector"
)

// TestEndpoint runs the test cases of package endpoint, which the injector cannot import.
func TestEndpoint(t *testing.T) {
	raw := readJSON(t, "testdata/inject/minimal.yaml")
	i := defaultInstallation()
	i.config.EnvFromFile = false
	for name, test := range endpointtest.Cases() {
		if test.Rejected != "" {
			continue // no TargetCluster has it in its status
		}
		t.Run(name, func(t *testing.T) {
			i := i
			i.target = injector.Target{Endpoint: test.Server, Delivery: "Direct"}
			host, port := test.Host, test.Port
			if host == "" {
				host, port = "127.0.0.1", "16443"
				i.target.Delivery = "Proxy"
			}
			result, err := i.inject(raw)
			if err != nil {
				t.Fatal(err)
			}
			env := decoded(t, apply(t, raw, result.Operations)).Spec.Containers[0].Env
			for name, value := range map[string]string{"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, "KUBERNETES_SERVICE_PORT_HTTPS": port} {
				if !slices.Contains(env, corev1.EnvVar{Name: name, Value: value}) {
					t.Errorf("the environment is %v, want %s=%s", env, name, value)
				}
			}
		})
	}
}
