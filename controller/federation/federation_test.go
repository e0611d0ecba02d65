package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/controller"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/lean"
	"github.com/keyferry/keyferry/internal/testenv"
	"github.com/keyferry/keyferry/internal/use"
	"github.com/keyferry/keyferry/issuer"
)

// server is the management cluster's API server.
var server *rest.Config

func TestMain(m *testing.M) {
	os.Exit(testenv.Run(m, func(cfg *rest.Config) { server = cfg }))
}

// world is a namespace of Pods, and one of TargetClusters, with the controllers at work.
type world struct {
	t           *testing.T
	client      client.Client
	pods, fleet string
	events      *events.FakeRecorder
}

func newWorld(t *testing.T) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	check(t, clientgoscheme.AddToScheme(scheme))
	check(t, v1alpha1.AddToScheme(scheme))
	w := &world{t: t, client: must(client.New(server, client.Options{Scheme: scheme}))(t), events: events.NewFakeRecorder(64)}
	for _, name := range []*string{&w.pods, &w.fleet} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
		w.create(namespace)
		*name = namespace.Name
	}
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.pods, Name: "web"}})
	w.run(scheme)
	return w
}

// run starts what the program runs, with caches restricted as there.
func (w *world) run(scheme *runtime.Scheme) {
	w.t.Helper()
	noValidation := true
	mgr := must(ctrl.NewManager(server, ctrl.Options{
		Scheme:     scheme,
		Logger:     logr.Discard(),
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &noValidation},
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.TargetCluster{}: {Transform: lean.Metadata},
			&corev1.ConfigMap{}:       {Field: fields.OneTermEqualSelector("metadata.name", injector.TrustConfigMap)},
			&corev1.Pod{}:             {Label: labels.SelectorFromSet(labels.Set{injector.LabelFederated: "true"}), Transform: Strip},
		}},
	}))(w.t)
	resolver := must(issuer.New(issuer.Config{Clusters: mgr.GetClient(), Secrets: mgr.GetAPIReader(), Policy: endpoint.Policy{AllowLocal: true}}))(w.t)
	clusters := must(controller.New(controller.TargetClustersConfig{
		Client: mgr.GetClient(), Resolver: resolver, Egress: endpoint.Policy{AllowLocal: true}, Events: events.NewFakeRecorder(64),
		Metrics: prometheus.NewRegistry(), Concurrency: 1, Timeout: time.Minute,
	}))(w.t)
	configMaps := must(cache.New(server, cache.Options{
		Scheme:   scheme,
		ByObject: map[client.Object]cache.ByObject{&corev1.ConfigMap{}: {Field: fields.OneTermEqualSelector("metadata.name", injector.FederationConfigMap)}},
	}))(w.t)
	it := must(New(Config{Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Cache: configMaps, Resolver: resolver, Events: w.events}))(w.t)
	check(w.t, mgr.Add(configMaps))
	check(w.t, clusters.SetupWithManager(mgr))
	check(w.t, it.SetupWithManager(mgr))

	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error)
	go func() { done <- mgr.Start(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		check(w.t, <-done)
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		check(t, err)
		return value
	}
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	check(w.t, w.client.Create(w.t.Context(), o))
}

// eventually waits until ok.
func (w *world) eventually(what string, ok func(context.Context) error) {
	w.t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(w.t.Context(), 20*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		last = ok(ctx)
		return last == nil, nil
	})
	if err != nil {
		w.t.Fatalf("%s: %v", what, last)
	}
}

// allow lets the ServiceAccount web use a TargetCluster.
func (w *world) allow(target string) {
	w.t.Helper()
	meta := metav1.ObjectMeta{Namespace: w.fleet, Name: "web-" + target}
	w.create(&rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"keyferry.dev"}, Resources: []string{"targetclusters"}, ResourceNames: []string{target}, Verbs: []string{"use"}},
	}})
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: w.pods, Name: "web"}},
	})
	w.eventually("the right to use "+target, func(ctx context.Context) error {
		may, err := use.Allowed(ctx, w.client, types.NamespacedName{Namespace: w.pods, Name: "web"}, "",
			use.TargetCluster(types.NamespacedName{Namespace: w.fleet, Name: target}))
		if err == nil && !may {
			err = errForbidden
		}
		return err
	})
}

// target makes a federated TargetCluster and waits until the webhook would admit Pods of the
// ServiceAccount web for it.
func (w *world) target(name string, cfg *rest.Config) *v1alpha1.TargetCluster {
	w.t.Helper()
	cluster := &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.fleet, Name: name},
		Spec: v1alpha1.TargetClusterSpec{
			Endpoint:         &v1alpha1.Endpoint{Server: "https://" + strings.TrimPrefix(cfg.Host, "https://"), CertificateAuthorityData: cfg.CAData},
			DefaultNamespace: "robots",
			Access:           v1alpha1.Access{Type: v1alpha1.AccessNone},
			Issue:            v1alpha1.Issue{Type: v1alpha1.IssueFederation, Federation: &v1alpha1.FederationIssue{Audience: w.fleet + "-" + name}},
		},
	}
	w.create(cluster)
	w.allow(name)
	w.observed(cluster)
	return cluster
}

// observed waits for the status of what has been written last.
func (w *world) observed(cluster *v1alpha1.TargetCluster) {
	w.t.Helper()
	w.eventually("the status of "+cluster.Name, func(ctx context.Context) error {
		if err := w.client.Get(ctx, client.ObjectKeyFromObject(cluster), cluster); err != nil {
			return err
		}
		if cluster.Status.ObservedGeneration != cluster.Generation {
			return fmt.Errorf("status %+v", cluster.Status)
		}
		return nil
	})
}

func (w *world) update(cluster *v1alpha1.TargetCluster, change func(*v1alpha1.TargetClusterSpec)) {
	w.t.Helper()
	w.eventually("an update of "+cluster.Name, func(ctx context.Context) error {
		check(w.t, w.client.Get(ctx, client.ObjectKeyFromObject(cluster), cluster))
		change(&cluster.Spec)
		return w.client.Update(ctx, cluster)
	})
	w.observed(cluster)
}

// pod makes one as the webhook does.
func (w *world) pod(cluster *v1alpha1.TargetCluster, annotations ...string) *corev1.Pod {
	w.t.Helper()
	return w.podOf("web", cluster, annotations...)
}

func (w *world) podOf(account string, cluster *v1alpha1.TargetCluster, annotations ...string) *corev1.Pod {
	w.t.Helper()
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: w.pods, GenerateName: "web-", Annotations: map[string]string{
			injector.AnnotationCluster: cluster.Namespace + "/" + cluster.Name,
		}},
		Spec: corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "app", Image: "example.com/app:1"}}},
	}
	for i := 0; i < len(annotations); i += 2 {
		pod.Annotations[annotations[i]] = annotations[i+1]
	}
	raw := must(json.Marshal(pod))(w.t)
	view := must(injector.DecodePod(raw))(w.t)
	want := must(injector.ParseAnnotations(view.Metadata.Annotations, w.pods))(w.t)
	federation := cluster.Spec.Issue.Federation
	result := must(injector.Inject(view, want, injector.Target{
		Federation: injector.Federation{Audience: federation.Audience, Duration: federation.Duration},
	}, injector.Config{}))(w.t)
	patch := must(jsonpatch.DecodePatch(must(json.Marshal(result.Operations))(w.t)))(w.t)
	injected := &corev1.Pod{}
	check(w.t, json.Unmarshal(must(patch.Apply(raw))(w.t), injected))
	w.create(injected)
	return injected
}

func (w *world) delete(pod *corev1.Pod) {
	w.t.Helper()
	check(w.t, w.client.Delete(w.t.Context(), pod, client.GracePeriodSeconds(0)))
}

func (w *world) configMap(ctx context.Context) (*corev1.ConfigMap, error) {
	cm := &corev1.ConfigMap{}
	return cm, w.client.Get(ctx, types.NamespacedName{Namespace: w.pods, Name: injector.FederationConfigMap}, cm)
}

// published waits until the ConfigMap has the entries of these, and nothing else; none means that
// there is no ConfigMap.
func (w *world) published(what string, clusters ...*v1alpha1.TargetCluster) {
	w.t.Helper()
	want := map[string]string{}
	for _, cluster := range clusters {
		at := must(url.Parse(cluster.Spec.Endpoint.Server))(w.t)
		prefix := cluster.Namespace + "_" + cluster.Name
		want[prefix+".host"], want[prefix+".port"], want[prefix+".namespace"] = at.Hostname(), at.Port(), cluster.Spec.DefaultNamespace
		want[prefix+".ca.crt"] = string(cluster.Spec.Endpoint.CertificateAuthorityData)
	}
	w.eventually(what, func(ctx context.Context) error {
		cm, err := w.configMap(ctx)
		switch {
		case len(want) == 0 && apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		case len(want) == 0 || !maps.Equal(cm.Data, want) || len(cm.BinaryData) > 0:
			return fmt.Errorf("got %v, want %v", cm.Data, want)
		}
		return nil
	})
}

// inPod is what the kubelet makes of a Pod: the client configuration that an in-cluster client
// finds, and its namespace.
func (w *world) inPod(pod *corev1.Pod) (cfg *rest.Config, namespace string) {
	w.t.Helper()
	var cm *corev1.ConfigMap
	w.eventually("what the Pod waits for", func(ctx context.Context) (err error) {
		cm, err = w.configMap(ctx)
		return err
	})
	files := map[string]string{}
	for _, source := range pod.Spec.Volumes[0].Projected.Sources {
		if s := source.ServiceAccountToken; s != nil {
			request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
				Audiences: []string{s.Audience}, ExpirationSeconds: s.ExpirationSeconds,
				BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
			}}
			granted := must(kubernetes.NewForConfigOrDie(server).CoreV1().ServiceAccounts(pod.Namespace).CreateToken(
				w.t.Context(), pod.Spec.ServiceAccountName, request, metav1.CreateOptions{}))(w.t)
			files[s.Path] = granted.Status.Token
		}
		if source.ConfigMap != nil {
			for _, item := range source.ConfigMap.Items {
				files[item.Path] = w.value(cm, item.Key)
			}
		}
	}
	env := map[string]string{}
	for _, e := range pod.Spec.Containers[0].Env {
		env[e.Name] = w.value(cm, e.ValueFrom.ConfigMapKeyRef.Key)
	}
	return &rest.Config{
		Host:            "https://" + net.JoinHostPort(env["KUBERNETES_SERVICE_HOST"], env["KUBERNETES_SERVICE_PORT"]),
		BearerToken:     files["token"],
		TLSClientConfig: rest.TLSClientConfig{CAData: []byte(files["ca.crt"])},
	}, files["namespace"]
}

func (w *world) value(cm *corev1.ConfigMap, key string) string {
	w.t.Helper()
	value, ok := cm.Data[key]
	if !ok {
		w.t.Fatalf("the ConfigMap has no key %s", key)
	}
	return value
}

// The whole way: another API server takes the token that the kubelet gives the Pod, and knows whose
// it is.
func TestTargetTakesTheToken(t *testing.T) {
	w := newWorld(t)
	w.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "issuer-discovery-for-all"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:service-account-issuer-discovery"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:unauthenticated"}},
	})
	discovery := must(kubernetes.NewForConfigOrDie(server).RESTClient().Get().AbsPath("/.well-known/openid-configuration").DoRaw(t.Context()))(t)
	var self struct{ Issuer string }
	check(t, json.Unmarshal(discovery, &self))
	configuration := "apiserver.config.k8s.io/v1"
	if !testenv.Has(testenv.AuthenticationConfigurationV1) {
		configuration = "apiserver.config.k8s.io/v1beta1"
	}
	cfg := testenv.Target(t, string(must(yaml.Marshal(map[string]any{
		"apiVersion": configuration,
		"kind":       "AuthenticationConfiguration",
		"jwt": []any{map[string]any{
			"issuer":        map[string]any{"url": self.Issuer, "audiences": []string{w.fleet + "-tenant-1"}, "certificateAuthority": string(server.CAData)},
			"claimMappings": map[string]any{"username": map[string]any{"claim": "sub", "prefix": "management:"}},
		}},
	}))(t)))

	cluster := w.target("tenant-1", cfg)
	if !meta.IsStatusConditionTrue(cluster.Status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("not ready: %+v", cluster.Status.Conditions)
	}
	start := time.Now()
	pod := w.pod(cluster)
	found, namespace := w.inPod(pod)
	t.Logf("the Pod had its ConfigMap after %s", time.Since(start).Round(time.Millisecond))
	if namespace != "robots" {
		t.Errorf("namespace is %q", namespace)
	}
	w.eventually("the target takes the token", func(ctx context.Context) error { // it reads the issuer's keys when it first can
		review, err := kubernetes.NewForConfigOrDie(found).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if want := "management:system:serviceaccount:" + w.pods + ":web"; review.Status.UserInfo.Username != want {
			t.Fatalf("the target knows the Pod as %q, want %q", review.Status.UserInfo.Username, want)
		}
		return nil
	})
	// The token is good for this target alone.
	here := rest.CopyConfig(found)
	here.Host, here.CAData = server.Host, server.CAData
	if _, err := kubernetes.NewForConfigOrDie(here).Discovery().ServerVersion(); !apierrors.IsUnauthorized(err) {
		t.Errorf("at the management cluster: got %v, want 401", err)
	}
}

func TestComesAndGoesWithPods(t *testing.T) {
	w := newWorld(t)
	one, two := w.target("tenant-1", server), w.target("tenant-2", server)
	w.published("no Pods")
	first := w.pod(one)
	w.published("the first Pod", one)
	second, third := w.pod(two, injector.AnnotationNamespace, "elsewhere"), w.pod(one)
	w.published("Pods of two targets", one, two)
	w.delete(first)
	w.delete(second)
	w.published("one Pod is left", one)
	w.delete(third)
	w.published("no Pods any more")
	w.pod(two)
	w.published("scaled up again", two)
}

// A user writes label and status of a federated Pod, of a target that the Pod's ServiceAccount may
// not use.
func TestForgedStatusPublishesNothing(t *testing.T) {
	w := newWorld(t)
	secret, granted := w.target("secret", server), w.target("granted", server)
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.pods, Name: "other"}})
	w.podOf("other", secret)
	w.pod(granted)
	w.eventually("a target is published", func(ctx context.Context) error {
		cm, err := w.configMap(ctx)
		if err == nil && cm.Data[w.fleet+"_secret.host"] != "" {
			t.Fatalf("a target that may not be used is published: %v", cm.Data)
		}
		return err
	})
	w.published("only the target that may be used", granted)
	w.pod(secret)
	w.published("both, once a Pod may use the other", granted, secret)
}

func TestRestored(t *testing.T) {
	w := newWorld(t)
	cluster := w.target("tenant-1", server)
	w.pod(cluster)
	w.published("at first", cluster)

	cm := must(w.configMap(t.Context()))(t)
	cm.Data = map[string]string{"evil": "x"}
	cm.BinaryData = map[string][]byte{"more": {0}}
	check(t, w.client.Update(t.Context(), cm))
	w.published("after an edit", cluster)
	check(t, w.client.Delete(t.Context(), cm))
	w.published("after its deletion", cluster)
}

func TestFollowsTheTarget(t *testing.T) {
	w := newWorld(t)
	cluster := w.target("tenant-1", server)
	w.pod(cluster)
	w.published("at first", cluster)

	w.update(cluster, func(spec *v1alpha1.TargetClusterSpec) {
		spec.Endpoint.Server = strings.Replace(spec.Endpoint.Server, "127.0.0.1", "localhost", 1)
		spec.Endpoint.CertificateAuthorityData = append(bytes.Clone(server.CAData), server.CAData...)
		spec.DefaultNamespace = "other"
	})
	w.published("after a move", cluster)
	good := cluster.DeepCopy()

	// The authority of somebody else, by mistake.
	w.update(cluster, func(spec *v1alpha1.TargetClusterSpec) { spec.Endpoint.CertificateAuthorityData = stranger(t) })
	if c := meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionReachable); c == nil || c.Reason != controller.ReasonTLSFailed {
		t.Fatalf("reachable: %+v", c)
	}
	w.pod(cluster)
	w.published("after a mistake", good)

	w.update(cluster, func(spec *v1alpha1.TargetClusterSpec) { spec.Endpoint.CertificateAuthorityData = server.CAData })
	w.published("after the mistake was mended", cluster)

	check(t, w.client.Delete(t.Context(), cluster))
	w.eventually("the TargetCluster is gone", func(ctx context.Context) error {
		if err := w.client.Get(ctx, client.ObjectKeyFromObject(cluster), &v1alpha1.TargetCluster{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	w.pod(cluster)
	w.published("after the TargetCluster was deleted", cluster)
}

func TestSomebodyElsesConfigMap(t *testing.T) {
	w := newWorld(t)
	cluster := w.target("tenant-1", server)
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.pods, Name: injector.FederationConfigMap}, Data: map[string]string{"a": "b"}}
	w.create(theirs)
	w.pod(cluster)
	select {
	case event := <-w.events.Events:
		if !strings.HasPrefix(event, "Warning NameTaken") || !strings.Contains(event, "delete it") {
			t.Errorf("got Event %q", event)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("no Event")
	}
	if cm := must(w.configMap(t.Context()))(t); !maps.Equal(cm.Data, theirs.Data) {
		t.Errorf("it was overwritten: %v", cm.Data)
	}
	check(t, w.client.Delete(t.Context(), theirs))
	w.published("after it was deleted", cluster)
}

// TestDeniedConfigMap: a quota of the namespace denies the ConfigMap. An Event there names the
// cause and the fix, and the ConfigMap is written once it is allowed.
func TestDeniedConfigMap(t *testing.T) {
	w := newWorld(t)
	cluster := w.target("tenant-1", server)
	hard := corev1.ResourceList{"count/configmaps": resource.MustParse("0")}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: w.pods, Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
	w.create(quota)
	quota.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: hard} // its controller does not run
	check(t, w.client.Status().Update(t.Context(), quota))
	w.eventually("the quota counts", func(ctx context.Context) error {
		probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.pods, Name: "probe"}}
		if err := w.client.Create(ctx, probe, client.DryRunAll); !apierrors.IsForbidden(err) {
			return errors.Join(errors.New("a ConfigMap is not denied"), err)
		}
		return nil
	})
	w.pod(cluster)
	select {
	case event := <-w.events.Events:
		if !strings.HasPrefix(event, "Warning NotKept ") || !strings.Contains(event, "exceeded quota: none") ||
			!strings.Contains(event, "do not start without this ConfigMap: allow the ConfigMap in the quota or policy") {
			t.Errorf("got Event %q", event)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("no Event")
	}
	check(t, w.client.Delete(t.Context(), quota))
	w.published("after it was allowed", cluster)
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("accepted")
	}
}

// stranger is an authority that signs nothing here.
func stranger(t *testing.T) []byte {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	t.Cleanup(s.Close)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}
