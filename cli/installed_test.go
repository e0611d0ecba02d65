package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	inventory "sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/endpoint/endpointtest"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/locks"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/webhook"
)

const brokerAddress = "10.96.4.2"

// chartObjects are what the chart installs by default, as far as keyferry inject reads it, with the
// broker's address.
func chartObjects(t *testing.T) []client.Object {
	t.Helper()
	hooks, deployment, service := &admissionregistrationv1.MutatingWebhookConfiguration{}, &appsv1.Deployment{}, &corev1.Service{}
	for file, objects := range map[string]map[string]client.Object{
		"webhook-configurations.yaml": {"kind: MutatingWebhookConfiguration": hooks},
		"webhook.yaml":                {"kind: Deployment": deployment},
		"broker.yaml":                 {"kind: Service\n": service},
	} {
		text, err := os.ReadFile(filepath.Join("../config/default", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range strings.Split(string(text), "\n---\n") {
			for kind, object := range objects {
				if strings.Contains(document, "\n"+kind) {
					if err := yaml.Unmarshal([]byte(document), object); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	service.Spec.ClusterIP = brokerAddress
	return []client.Object{hooks, deployment, service}
}

func fakeCluster(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), inventory.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

// TestInjectAnswersAsTheWebhook: for each Pod that the injector is tested with, keyferry inject
// comes to what the webhook comes to. Online both are run as the chart has them; offline the
// webhook of the chart's defaults runs in a cluster without the features.
func TestInjectAnswersAsTheWebhook(t *testing.T) {
	files, err := filepath.Glob("../injector/testdata/inject/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no Pods", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		if strings.HasSuffix(name, ".golden") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		targets := targetClusters(name)
		for mode, able := range map[string]bool{"online": true, "offline": false} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", Labels: map[string]string{corev1.LabelOSStable: "linux"}}}
				if able {
					node.Status.DeclaredFeatures = []string{"RestartAllContainersOnContainerExits"}
				}
				objects := append(chartObjects(t), node, &v1alpha1.CredentialRequest{
					ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
					Spec: v1alpha1.CredentialRequestSpec{
						TargetCluster:      v1alpha1.ObjectReference{Namespace: "fleet", Name: "tenant-1"},
						ServiceAccountName: "default", Type: v1alpha1.CredentialTokenFile, Secret: v1alpha1.CredentialSecret{Name: "tenant-1"},
					},
				})
				for _, target := range targets {
					objects = append(objects, target)
				}
				cluster := fakeCluster(t, objects...)
				found, err := findInstallation(t.Context(), cluster)
				if err != nil {
					t.Fatal(err)
				}
				i := injection{streams: genericiooptions.NewTestIOStreamsDiscard(), namespace: "shop"}
				if able {
					i.targets = fleet{cluster, operator{}}.target
					i.config, err = found.merged(t.Context(), injector.Config{}, func(string) bool { return false }, "shop")
				} else {
					i.config = offlineConfig()
					i.config.Image, i.config.Version = found.config.Image, found.config.Version // of this build, and of the release
					i.config.BrokerAddress = brokerAddress                                      // by its flag
					i.targets, err = targetsOfFile(fileWith(t, targets), "shop", operator{})
				}
				if err != nil {
					t.Fatal(err)
				}
				raw, err := yaml.YAMLToJSON(text)
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(text, []byte(injector.AnnotationCredentialRequest)) && !able {
					return // it is not in the file
				}
				want := webhookAnswer(t, cluster, found.config, able, raw)
				printed, err := i.document(t.Context(), split(raw)[0], "the Pod")
				if err != nil {
					printed = nil
				}
				if got := tree(t, printed); !reflect.DeepEqual(got, tree(t, want)) {
					t.Errorf("keyferry inject: %s, %v\nthe webhook: %s", printed, err, want)
				}
			})
		}
	}
}

func tree(t *testing.T, text []byte) (decoded map[string]any) {
	t.Helper()
	if len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

// targetClusters are those that the Pods name, in the state that a case needs. Spec and status say
// the same.
func targetClusters(name string) []*v1alpha1.TargetCluster {
	var targets []*v1alpha1.TargetCluster
	for _, target := range []string{"fleet/tenant-1", "fleet/tenant-2", "shop/tenant-1", "shop/tenant-2", "shop/tenant-3", "fleet/other-source", "fleet/same-source", "fleet/federated", "fleet/plugin"} {
		namespace, target, _ := strings.Cut(target, "/")
		tc := &v1alpha1.TargetCluster{
			TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "TargetCluster"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: target},
			Spec: v1alpha1.TargetClusterSpec{
				Endpoint: &v1alpha1.Endpoint{Server: "https://203.0.113.7:6443"},
				Access:   v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "x"}},
				Issue:    v1alpha1.Issue{Type: v1alpha1.IssueAccess},
			},
			Status: v1alpha1.TargetClusterStatus{
				Endpoint: "https://203.0.113.7:6443", Delivery: v1alpha1.DeliveryDirect, DeliveryReason: "in-cluster clients support the endpoint and the credential",
				Conditions: []metav1.Condition{{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionTrue}},
			},
		}
		if strings.HasPrefix(name, "federated") || target == "federated" {
			tc.Spec.Access = v1alpha1.Access{Type: v1alpha1.AccessNone}
			tc.Spec.Endpoint.CertificateAuthorityData = []byte(endpointtest.CertificateAuthority)
			tc.Spec.Issue = v1alpha1.Issue{Type: v1alpha1.IssueFederation, Federation: &v1alpha1.FederationIssue{Audience: "tenant-1.example.com"}}
		}
		if name == "needs-proxy" || name == "direct-impossible" {
			tc.Spec.Endpoint.ProxyURL = "http://proxy.example.com:3128"
			tc.Status.Delivery, tc.Status.DeliveryReason = v1alpha1.DeliveryProxy, "in-cluster clients do not support a proxyURL"
		}
		targets = append(targets, tc)
	}
	return targets
}

func fileWith(t *testing.T, targets []*v1alpha1.TargetCluster) string {
	t.Helper()
	var all bytes.Buffer
	for _, target := range targets {
		text, err := yaml.Marshal(target)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("---\n")
		all.Write(text)
	}
	file := filepath.Join(t.TempDir(), "targets.yaml")
	if err := os.WriteFile(file, all.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// webhookAnswer returns a Pod as the webhook changes it; nil if it denies it.
func webhookAnswer(t *testing.T, cluster client.Client, config injector.Config, able bool, raw []byte) []byte {
	t.Helper()
	handler, err := webhook.New(webhook.Config{
		Injection: config, Cached: cluster, Live: cluster, Metrics: prometheus.NewRegistry(),
		MayUse:        func(context.Context, types.NamespacedName, use.Object) (bool, error) { return true, nil },
		FindLock:      func(context.Context, locks.Access) (*locks.Lock, error) { return nil, nil },
		Providers:     func() *clusterprofile.ProviderFile { return nil },
		EnvFromFile:   func() bool { return able },
		ImageVolume:   func() bool { return false },
		BrokerAddress: func(context.Context) (string, error) { return brokerAddress, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	review, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "1", Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, Namespace: "shop", Operation: admissionv1.Create,
			Object: runtime.RawExtension{Raw: raw},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, webhook.PathPods, bytes.NewReader(review)))
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%v: %s", err, recorder.Body)
	}
	switch {
	case !answer.Response.Allowed:
		return nil
	case len(answer.Response.Patch) == 0:
		return raw
	}
	patch, err := jsonpatch.DecodePatch(answer.Response.Patch)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := patch.Apply(raw)
	if err != nil {
		t.Fatal(err)
	}
	return patched
}

// The chart's defaults are what keyferry inject takes offline.
func TestOfflineDefaults(t *testing.T) {
	found, err := findInstallation(t.Context(), fakeCluster(t, chartObjects(t)...))
	if err != nil {
		t.Fatal(err)
	}
	want, got := found.config, offlineConfig()
	repository, _, _ := strings.Cut(want.Image, ":v")
	var wantResources, gotResources corev1.ResourceRequirements
	if err := errors.Join(json.Unmarshal(want.Resources, &wantResources), json.Unmarshal(got.Resources, &gotResources)); err != nil {
		t.Fatal(err)
	}
	if injector.DefaultRepository != repository || !reflect.DeepEqual(wantResources, gotResources) {
		t.Errorf("repository %s, resources %s; the chart has %s, %s", injector.DefaultRepository, got.Resources, repository, want.Resources)
	}
	got.Image, got.Version, got.Resources = want.Image, want.Version, want.Resources
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, the chart has %+v", got, want)
	}
}

// offlineConfig is what the command's flags have by default.
func offlineConfig() injector.Config {
	var config injector.Config
	addInjectionFlags(pflag.NewFlagSet("", pflag.ContinueOnError), &config)
	return config
}

// TestInstalledPolicy: what the operator allows is read from the webhook's Deployment, and flags
// override it.
func TestInstalledPolicy(t *testing.T) {
	objects := chartObjects(t)
	for _, object := range objects {
		if deployment, ok := object.(*appsv1.Deployment); ok && deployment.Name == webhookName {
			args := &deployment.Spec.Template.Spec.Containers[0].Args
			*args = append(*args, "--allow-link-local", "--ambient-identity-namespaces=fleet")
		}
	}
	found, err := findInstallation(t.Context(), fakeCluster(t, objects...))
	if err != nil {
		t.Fatal(err)
	}
	op := found.operator(operator{}, func(flag string) bool { return flag == "allow-link-local" })
	if expected := (endpoint.Policy{AmbientNamespaces: []string{"fleet"}}); !reflect.DeepEqual(op.policy, expected) {
		t.Errorf("got %+v, want %+v", op.policy, expected)
	}
}

// TestFindInstallationFails: what cannot be read is not guessed.
func TestFindInstallationFails(t *testing.T) {
	forbidden := func(object client.Object) bool { _, is := object.(*appsv1.Deployment); return is }
	without := interceptor.NewClient(fakeCluster(t, chartObjects(t)...), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, opts ...client.GetOption) error {
			if forbidden(object) {
				return apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "deployments"}, key.Name, errors.New("no"))
			}
			return c.Get(ctx, key, object, opts...)
		},
	})
	if _, err := findInstallation(t.Context(), without); err == nil || !strings.Contains(err.Error(), "reading Deployment keyferry-system/keyferry-webhook") {
		t.Errorf("got %v", err)
	}
	if _, err := findInstallation(t.Context(), fakeCluster(t)); !errors.Is(err, errNotInstalled) {
		t.Errorf("got %v", err)
	}
}
