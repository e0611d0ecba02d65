package bench

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
)

// installation is an API server with Keyferry's webhook before it, each a process of its own.
type installation struct {
	config  *rest.Config
	fleet   *testenv.Fleet
	certDir string // of the certificate that Keyferry's programs serve with
	webhook *process
}

func install(b *testing.B) *installation {
	b.Helper()
	config, stop, err := testenv.Start()
	must(b, err)
	b.Cleanup(stop)
	config.QPS, config.WarningHandler = -1, rest.NoWarnings{}
	in := &installation{config: config, fleet: testenv.NewFleet(b, config), certDir: b.TempDir()}
	in.resolve(b, "tenant-1")

	testenv.WriteCertificate(b, in.certDir)
	service := free(b)
	_, port, err := net.SplitHostPort(service)
	must(b, err)
	in.webhook = in.start(b, "webhook", "--namespace=default", "--port="+port, "--env-from-file=false",
		"--refresher-image=keyferry.example/refresher:v1", "--broker-url=https://keyferry-broker.keyferry-system.svc")
	in.register(b, "https://"+service)
	in.guard(b)
	return in
}

// Namespaces whose Pods the guard does not check.
const (
	// smallestPolicy has a policy of its own that does nothing.
	smallestPolicy = "smallest-policy"
	// untouched has no policy, and is one of those that the webhook excludes.
	untouched = metav1.NamespacePublic
)

// guard installs the chart's policy, except for two namespaces. In one of them, another policy has
// the same rules and one condition, which is false for all Pods that are stored: no policy for Pods
// costs less.
func (in *installation) guard(b *testing.B) {
	b.Helper()
	must(b, in.fleet.Create(b.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: smallestPolicy}}))
	text, err := os.ReadFile("../config/default/guard.yaml")
	must(b, err)
	first, _, _ := strings.Cut(string(text), "\n---\n")
	var guard admissionregistrationv1.ValidatingAdmissionPolicy
	must(b, yaml.Unmarshal([]byte(first), &guard))
	smallest := guard.DeepCopy()
	smallest.Name, smallest.Spec.Variables = smallestPolicy, nil
	smallest.Spec.MatchConditions = []admissionregistrationv1.MatchCondition{
		{Name: "never", Expression: "request.dryRun && 'never' in object.metadata.?labels.orValue({})"},
	}
	smallest.Spec.Validations = []admissionregistrationv1.Validation{{Expression: "false"}}
	in.bind(b, smallest, metav1.LabelSelectorOpIn, smallestPolicy)
	in.bind(b, &guard, metav1.LabelSelectorOpNotIn, smallestPolicy, untouched)
	for what, denied := range map[string]metav1.ObjectMeta{
		"denial by the smallest policy": {Namespace: smallestPolicy, Labels: map[string]string{"never": ""}},
		"denial by the guard":           {Annotations: map[string]string{"Keyferry.dev/cluster": "tenant-1"}},
	} {
		until(b, "the first "+what, func() bool { return in.fleet.Create(b.Context(), in.pod(b, denied), client.DryRunAll) != nil })
	}
}

// bind installs a policy for namespaces in or not in a list.
func (in *installation) bind(b *testing.B, policy *admissionregistrationv1.ValidatingAdmissionPolicy, operator metav1.LabelSelectorOperator, namespaces ...string) {
	b.Helper()
	must(b, in.fleet.Create(b.Context(), policy))
	must(b, in.fleet.Create(b.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: policy.Name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName:        policy.Name,
			ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
			MatchResources: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{
				MatchExpressions: []metav1.LabelSelectorRequirement{{Key: corev1.LabelMetadataName, Operator: operator, Values: namespaces}},
			}},
		},
	}))
}

// start runs one of Keyferry's programs, and waits until it is ready.
func (in *installation) start(b *testing.B, name string, args ...string) *process {
	b.Helper()
	health := free(b)
	p := run(b, []string{"KUBECONFIG=" + testenv.WriteKubeconfig(b, in.config, "")}, build(b, name),
		append(args, "--cert-dir="+in.certDir, "--health-address="+health, "--metrics-address=0")...)
	until(b, "the readiness of the "+name, func() bool {
		response, err := http.Get("http://" + health + "/readyz")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return p
}

// certificate is that which Keyferry's programs serve with, PEM.
func (in *installation) certificate(b *testing.B) []byte {
	b.Helper()
	text, err := os.ReadFile(filepath.Join(in.certDir, "tls.crt"))
	must(b, err)
	return text
}

// resolve does for a TargetCluster what the controller would.
func (in *installation) resolve(b *testing.B, name string) {
	b.Helper()
	cluster := &v1alpha1.TargetCluster{}
	must(b, in.fleet.Get(b.Context(), client.ObjectKey{Namespace: in.fleet.Namespace, Name: name}, cluster))
	cluster.Status = v1alpha1.TargetClusterStatus{ObservedGeneration: cluster.Generation, Endpoint: "https://203.0.113.7:6443", Delivery: v1alpha1.DeliveryDirect}
	for _, kind := range []string{v1alpha1.ConditionResolved, v1alpha1.ConditionReachable} {
		meta.SetStatusCondition(&cluster.Status.Conditions, metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: "Benchmark"})
	}
	must(b, in.fleet.Status().Update(b.Context(), cluster))
}

// configuration is the chart's, for a webhook with another URL.
func (in *installation) configuration(b *testing.B, url string) admissionregistrationv1.MutatingWebhookConfiguration {
	b.Helper()
	text, err := os.ReadFile("../config/default/webhook-configurations.yaml")
	must(b, err)
	var configuration admissionregistrationv1.MutatingWebhookConfiguration
	first, _, _ := strings.Cut(string(text), "\n---\n")
	must(b, yaml.Unmarshal([]byte(first), &configuration))
	for i := range configuration.Webhooks {
		at := url + *configuration.Webhooks[i].ClientConfig.Service.Path
		configuration.Webhooks[i].ClientConfig = admissionregistrationv1.WebhookClientConfig{URL: &at, CABundle: in.certificate(b)}
	}
	return configuration
}

// register has the API server call the webhook, and waits until it does.
func (in *installation) register(b *testing.B, url string) {
	b.Helper()
	configuration := in.configuration(b, url)
	must(b, in.fleet.Create(b.Context(), &configuration))
	in.untilInjected(b, annotated)
}

// registerBare has the API server call another webhook for Pods with a label. It knows its answer,
// which makes of any Pod the one that it has seen, and looks at none.
func (in *installation) registerBare(b *testing.B) {
	b.Helper()
	patch, err := json.Marshal([]map[string]any{{"op": "replace", "path": "/spec", "value": in.untilInjected(b, annotated).Spec}})
	must(b, err)
	certificate, err := tls.LoadX509KeyPair(filepath.Join(in.certDir, "tls.crt"), filepath.Join(in.certDir, "tls.key"))
	must(b, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct{ Request struct{ UID types.UID } }
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			b.Error(err)
		}
		patchType := admissionv1.PatchTypeJSONPatch
		answerJSON(w, admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
			Response: &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true, Patch: patch, PatchType: &patchType},
		})
	}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	b.Cleanup(server.Close)
	configuration := in.configuration(b, server.URL)
	configuration.Name, configuration.Webhooks = "bare", configuration.Webhooks[:1]
	configuration.Webhooks[0].MatchConditions = nil
	configuration.Webhooks[0].ObjectSelector = &metav1.LabelSelector{MatchLabels: labelled.Labels}
	must(b, in.fleet.Create(b.Context(), &configuration))
	in.untilInjected(b, labelled)
}

// untilInjected creates Pods until one has a sidecar, and returns that.
func (in *installation) untilInjected(b *testing.B, mark metav1.ObjectMeta) *corev1.Pod {
	b.Helper()
	var p *corev1.Pod
	until(b, "the first injection", func() bool {
		p = in.pod(b, mark)
		must(b, in.fleet.Create(b.Context(), p))
		return slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == injector.RefresherContainer })
	})
	return p
}

// What has a Pod changed by our webhook, or by the bare one, or by none.
var (
	annotated = metav1.ObjectMeta{Annotations: map[string]string{"keyferry.dev/cluster": "tenant-1"}}
	labelled  = metav1.ObjectMeta{Labels: map[string]string{"bare": "true"}}
	unmarked  = metav1.ObjectMeta{}
)

// pod is one with four containers and 7 KB.
func (in *installation) pod(b *testing.B, mark metav1.ObjectMeta) *corev1.Pod {
	b.Helper()
	raw, err := os.ReadFile("../injector/testdata/benchmark.json")
	must(b, err)
	p := new(corev1.Pod)
	must(b, yaml.Unmarshal(raw, p))
	p.ObjectMeta = *mark.DeepCopy()
	p.GenerateName, p.Namespace = "web-", cmp.Or(mark.Namespace, in.fleet.Namespace)
	p.Spec.ServiceAccountName, p.Spec.NodeName = "web", ""
	p.Spec.ImagePullSecrets, p.Spec.PriorityClassName, p.Spec.Priority = nil, "", nil
	return p
}

// BenchmarkPodCreation is one Pod after the other, in turns: without annotation, in a namespace
// without Keyferry and in one with the smallest policy; with a webhook that has its answer ready,
// and with ours.
func BenchmarkPodCreation(b *testing.B) {
	in := install(b)
	in.registerBare(b)
	marks := map[string]metav1.ObjectMeta{
		untouched: {Namespace: untouched}, smallestPolicy: {Namespace: smallestPolicy},
		"without": unmarked, "bare": labelled, "with": annotated,
	}
	took := map[string][]time.Duration{}
	for range 600 {
		for name, mark := range marks {
			p := in.pod(b, mark)
			start := time.Now()
			must(b, in.fleet.Create(b.Context(), p))
			took[name] = append(took[name], time.Since(start))
		}
	}
	for name := range marks {
		b.Run(name, func(b *testing.B) {
			b.ReportMetric(percentile(took[name], 50), "p50-sec")
			b.ReportMetric(percentile(took[name], 99), "p99-sec")
		})
	}
}
