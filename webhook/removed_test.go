package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/internal/use"
)

// olderTypes returns a function that decodes a Pod into the types of Kubernetes 1.30, and returns
// the JSON of its spec.
func olderTypes(t *testing.T) func(*corev1.Pod) map[string]json.RawMessage {
	t.Helper()
	program := filepath.Join(t.TempDir(), "reencode")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/reencode")
	build.Dir = "../tools/cel"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return func(p *corev1.Pod) map[string]json.RawMessage {
		raw, err := json.Marshal(p)
		if err != nil {
			t.Error(err)
		}
		older := exec.CommandContext(t.Context(), program)
		older.Stdin = bytes.NewReader(raw)
		out, err := older.Output()
		var decoded struct{ Spec map[string]json.RawMessage }
		if err == nil {
			err = json.Unmarshal(out, &decoded)
		}
		if err != nil {
			t.Error(err)
		}
		return decoded.Spec
	}
}

// TestWebhookWithOlderTypes: another webhook was built for Kubernetes 1.30. It decodes each Pod and
// returns all or a part of it, as https://github.com/aws/amazon-eks-pod-identity-webhook/issues/208
// and https://github.com/Azure/azure-workload-identity/issues/1312 report. If Keyferry's webhook is
// called last, it restores what is lost. Otherwise the Pod does not use the newer fields.
func TestWebhookWithOlderTypes(t *testing.T) {
	if !testenv.Has(testenv.EnvFromFile) {
		t.Skip("this API server has none of the newer fields")
	}
	targetCluster(t, "tenant-1", ready())
	proxied := ready()
	proxied.Delivery, proxied.DeliveryReason = v1alpha1.DeliveryProxy, "spec.endpoint.proxyURL is set"
	targetCluster(t, "proxied", proxied)
	clusterProfile(t, "paris", asItIs, "pods")
	for _, name := range []string{"tenant-1", "proxied"} {
		grant(t, shopWeb, name)
	}
	grantUse(t, shopWeb, used(use.ClusterProfile, "paris"))
	older := olderTypes(t)
	for returned, fields := range map[string][]string{
		"everything":      {"initContainers", "containers", "volumes"},
		"containers":      {"containers"},
		"init containers": {"initContainers"},
	} {
		labels := map[string]string{"returned": strings.ReplaceAll(returned, " ", "-")}
		change := func(p *corev1.Pod) (ops []injector.Operation) {
			spec := older(p)
			for _, field := range fields {
				if value, ok := spec[field]; ok {
					ops = append(ops, injector.Operation{Op: "add", Path: "/spec/" + field, Value: value})
				}
			}
			return ops
		}
		for _, name := range []string{"aa-older", "older"} { // keyferry-webhook is between them
			for _, policy := range []admissionregistrationv1.ReinvocationPolicyType{
				admissionregistrationv1.NeverReinvocationPolicy, admissionregistrationv1.IfNeededReinvocationPolicy,
			} {
				t.Run(returned+", "+name+", "+string(policy), func(t *testing.T) {
					standIn(t, name, policy, labels, change)
					isLast := name == "older" && policy == admissionregistrationv1.IfNeededReinvocationPolicy
					testOlderTypes(t, labels, fields, isLast)
				})
			}
		}
	}
}

// testOlderTypes creates Pods of which the other webhook returns fields.
func testOlderTypes(t *testing.T, labels map[string]string, fields []string, isLast bool) {
	t.Helper()
	c, warned := recordingClient(t)
	for what, test := range map[string]struct {
		annotations map[string]string
		usesOf      []string // the parts of the Pod with newer fields
	}{
		"direct delivery":      {annotated("cluster", "fleet/tenant-1"), []string{"initContainers", "containers"}},
		"delivery by proxy":    {annotated("cluster", "fleet/proxied"), []string{"initContainers"}},
		"a plugin in an image": {annotated("cluster-profile", "fleet/paris"), []string{"initContainers", "containers", "volumes"}},
		"no restart":           {annotated("cluster", "fleet/tenant-1", "on-endpoint-change", "ignore"), nil},
		"a requested restart":  {annotated("cluster", "fleet/tenant-1", "on-endpoint-change", "restart"), []string{"initContainers", "containers"}},
	} {
		t.Run(what, func(t *testing.T) {
			p := running("web", pod("shop", test.annotations))
			p.Labels = labels
			err := c.Create(t.Context(), p, client.DryRunAll)
			warnings := warned.take()
			isRemoved := isLast && slices.ContainsFunc(test.usesOf, func(part string) bool { return slices.Contains(fields, part) })
			const cause = "another webhook, built for an older Kubernetes, removes "
			if isRemoved && what == "a requested restart" {
				want := "annotation keyferry.dev/on-endpoint-change: restart is not possible, because " + cause + "restartPolicyRules or fileKeyRef from the Pod"
				if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "MutatingWebhookConfigurations older; or set") {
					t.Errorf("got %v, want … %s", err, want)
				}
				return
			}
			must(t, err)
			if isRemoved != strings.HasPrefix(warnings, cause) || isRemoved && !strings.HasSuffix(warnings, "MutatingWebhookConfigurations older") {
				t.Errorf("warnings: %q", warnings)
			}
			restarts := len(test.usesOf) > 0 && !isRemoved
			checkRestarts(t, p, restarts)
			for _, v := range p.Spec.Volumes {
				if want := restarts || !slices.Contains(fields, "volumes"); v.Name == injector.PluginVolume && (v.Image != nil) != want {
					t.Errorf("the plugin's volume is %+v", v)
				}
			}
		})
	}
}

// checkRestarts checks all parts of a Pod that differ if a change of the endpoint restarts it.
func checkRestarts(t *testing.T, p *corev1.Pod, want bool) {
	t.Helper()
	sidecar, env := refresherOf(t, p), p.Spec.Containers[0].Env
	isLiteral := !slices.ContainsFunc(env, func(e corev1.EnvVar) bool { return e.Value == "" })
	fromFile := !slices.ContainsFunc(env, func(e corev1.EnvVar) bool { return e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil })
	isProxied := slices.Contains(sidecar.Args, "--delivery=proxy")
	if got := slices.Contains(sidecar.Args, "--on-endpoint-change=restart"); got != want || len(env) != 3 ||
		(len(sidecar.RestartPolicyRules) > 0) != want || isLiteral != (isProxied || !want) || fromFile != (want && !isProxied) {
		t.Errorf("want a restart: %t, got the sidecar %v with %v and the variables %+v", want, sidecar.Args, sidecar.RestartPolicyRules, env)
	}
	if got := strings.Contains(p.Annotations[injector.AnnotationStatus], `"onEndpointChange":"restart"`); got != want {
		t.Errorf("the status is %s", p.Annotations[injector.AnnotationStatus])
	}
}

// TestCalledLast checks which webhooks the API server can call last: those for new Pods, and with
// the policy IfNeeded.
func TestCalledLast(t *testing.T) {
	rule := func(group, resource string, operation admissionregistrationv1.OperationType) admissionregistrationv1.RuleWithOperations {
		return admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{operation},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: []string{resource}},
		}
	}
	again, never := admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy
	for name, test := range map[string]struct {
		policy *admissionregistrationv1.ReinvocationPolicyType
		rule   admissionregistrationv1.RuleWithOperations
		want   bool
	}{
		"pods":           {&again, rule("", "pods", admissionregistrationv1.Create), true},
		"everything":     {&again, rule("*", "*/*", admissionregistrationv1.OperationAll), true},
		"all resources":  {&again, rule("", "*", admissionregistrationv1.Create), true},
		"with parts":     {&again, rule("", "pods/*", admissionregistrationv1.Create), true},
		"no policy":      {nil, rule("", "pods", admissionregistrationv1.Create), false},
		"never again":    {&never, rule("", "pods", admissionregistrationv1.Create), false},
		"only updates":   {&again, rule("", "pods", admissionregistrationv1.Update), false},
		"parts of Pods":  {&again, rule("", "pods/status", admissionregistrationv1.Create), false},
		"deployments":    {&again, rule("apps", "deployments", admissionregistrationv1.Create), false},
		"another group":  {&again, rule("metrics.k8s.io", "pods", admissionregistrationv1.Create), false},
		"all of another": {&again, rule("apps", "*", admissionregistrationv1.Create), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := isCalledAgain(admissionregistrationv1.MutatingWebhook{ReinvocationPolicy: test.policy, Rules: []admissionregistrationv1.RuleWithOperations{test.rule}}); got != test.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

// TestCalledLastFromCache: as in production, the configurations have only the fields that are
// needed.
func TestCalledLastFromCache(t *testing.T) {
	again := admissionregistrationv1.IfNeededReinvocationPolicy
	for _, name := range []string{"aa-other", "other"} { // keyferry-webhook is between them
		c := &admissionregistrationv1.MutatingWebhookConfiguration{}
		c.Name = name
		c.Webhooks = []admissionregistrationv1.MutatingWebhook{{
			Name: "other.example.com", ReinvocationPolicy: &again,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: []byte("a long certificate")},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
		}}
		stripped, err := StripConfiguration(c)
		must(t, err)
		kept, ok := stripped.(*admissionregistrationv1.MutatingWebhookConfiguration)
		if !ok || kept.Webhooks[0].ClientConfig.CABundle != nil {
			t.Fatalf("kept is %+v", stripped)
		}
		h := testHandler(t, func(cfg *Config) { cfg.Cached = configurations{*kept} })
		last, err := h.calledLast(t.Context())
		must(t, err)
		if want := name == "other"; slices.Contains(last, name) != want {
			t.Errorf("called last are %q", last)
		}
	}
}

// configurations is a reader that lists MutatingWebhookConfigurations.
type configurations []admissionregistrationv1.MutatingWebhookConfiguration

func (configurations) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return errors.New("nothing gets")
}

func (c configurations) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	into, ok := list.(*admissionregistrationv1.MutatingWebhookConfigurationList)
	if !ok {
		return fmt.Errorf("no list of configurations: %T", list)
	}
	into.Items = c
	return nil
}
