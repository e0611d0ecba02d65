package check

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/terminal"
)

const denial = `admission webhook "pods.keyferry.dev" denied the request: there is no TargetCluster`

// TestInstallation: a working installation, and one with each fault.
func TestInstallation(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	named := func(o client.Object, namespace, name string) client.Object {
		o.SetNamespace(namespace)
		o.SetName(name)
		return o
	}
	type world struct {
		ready   int32
		bundle  []byte
		trust   string
		guarded bool
		created error // what the API server answers to the Pod
	}
	working := world{ready: 2, bundle: ca, trust: string(ca), guarded: true, created: errors.New(denial)}
	for name, test := range map[string]struct {
		change func(*world)
		want   string // a line of the report
		result Verdict
	}{
		"works":             {func(*world) {}, "✓ admission      the API server calls the webhook", Fine},
		"no Pod is ready":   {func(w *world) { w.ready = 0 }, "✗ broker         none of its 2 Pods is ready", Wrong},
		"one is ready":      {func(w *world) { w.ready = 1 }, "? controller     1 of 2 Pods are ready", Unknown},
		"no caBundle":       {func(w *world) { w.bundle = nil }, "✗ webhooks       these webhooks have no caBundle, so the API server does not trust them: pods.keyferry.dev", Wrong},
		"no CA for Pods":    {func(w *world) { w.trust = "" }, "✗ broker's CA    ConfigMap app/keyferry-trust has no certificate in ca.crt", Wrong},
		"no guard":          {func(w *world) { w.guarded = false }, "✗ guard          there is no ValidatingAdmissionPolicy keyferry-guard", Wrong},
		"not called":        {func(w *world) { w.created = nil }, "✗ admission      the API server created a Pod", Wrong},
		"guarded, uncalled": {func(w *world) { w.created = errors.New("ValidatingAdmissionPolicy 'keyferry-guard' denied") }, "✗ admission      the API server does not call the webhook; keyferry-guard", Wrong},
		"no connection":     {func(w *world) { w.created = errors.New(`failed calling webhook "pods.keyferry.dev": i/o timeout`) }, "✗ admission      failed calling webhook", Wrong},
		"no right":          {func(w *world) { w.created = errors.New("you cannot create Pods") }, "? admission      cannot create a Pod as a dry run", Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			w := working
			test.change(&w)
			objects := []client.Object{
				named(&admissionv1.ValidatingWebhookConfiguration{}, "", "keyferry-webhook"),
				&admissionv1.MutatingWebhookConfiguration{
					ObjectMeta: metav1.ObjectMeta{Name: "keyferry-webhook"},
					Webhooks:   []admissionv1.MutatingWebhook{{Name: "pods.keyferry.dev", ClientConfig: admissionv1.WebhookClientConfig{CABundle: w.bundle}}},
				},
				&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "keyferry-trust"}, Data: map[string]string{"ca.crt": w.trust}},
			}
			if w.guarded {
				objects = append(objects, named(&admissionv1.ValidatingAdmissionPolicy{}, "", "keyferry-guard"), named(&admissionv1.ValidatingAdmissionPolicyBinding{}, "", "keyferry-guard"))
			}
			for _, component := range []string{"broker", "controller", "webhook"} {
				objects = append(objects, &appsv1.Deployment{
					ObjectMeta: metav1.ObjectMeta{Namespace: "keyferry-system", Name: "keyferry-" + component},
					Spec:       appsv1.DeploymentSpec{Replicas: ptr.To(int32(2))},
					Status:     appsv1.DeploymentStatus{ReadyReplicas: w.ready, UpdatedReplicas: 2},
				})
			}
			scheme := runtime.NewScheme()
			if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
				t.Fatal(err)
			}
			c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
				Create: func(_ context.Context, _ client.WithWatch, object client.Object, opts ...client.CreateOption) error {
					options := (&client.CreateOptions{}).ApplyOptions(opts)
					if _, isPod := object.(*corev1.Pod); !isPod || len(options.DryRun) == 0 {
						t.Errorf("creates %T, dry run %q", object, options.DryRun)
					}
					return w.created
				},
			}).Build()
			report := Installation(t.Context(), c, "keyferry-system", "app")
			var text strings.Builder
			if err := report.WriteText(&text, terminal.Palette{}); err != nil {
				t.Fatal(err)
			}
			if report.Result != test.result || !strings.Contains(text.String(), "\n"+test.want) {
				t.Errorf("%s, want %s with %q:\n%s", report.Result, test.result, test.want, text.String())
			}
		})
	}
}
