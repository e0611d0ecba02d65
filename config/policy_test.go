package config_test

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/internal/testenv"
)

// limited is a namespace, and a component under one of config/default's admission policies. Only
// the policy denies the component anything.
type limited struct {
	t                *testing.T
	admin, component client.Client
	namespace        string
	message          string
}

// limit installs the policies in a file. message is a part of the policy's message, and forbidden a
// request that the policy denies.
func limit(t *testing.T, component, file, message string, forbidden func(context.Context, limited) error) limited {
	t.Helper()
	t.Parallel()
	check(t, testenv.InstallPolicy(t.Context(), cluster, file))
	l := limited{t: t, admin: testenv.NewClient(t, cluster), component: testenv.NewClient(t, testenv.As(cluster, component)), message: message}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "limited-"}}
	l.create(namespace)
	l.namespace = namespace.Name
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		return l.isDenied(forbidden(ctx, l)), nil
	})
	if err != nil {
		t.Fatalf("%s does not act: %v", file, err)
	}
	return l
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (l limited) isDenied(err error) bool {
	return err != nil && strings.Contains(err.Error(), l.message)
}

func (l limited) create(o client.Object) {
	l.t.Helper()
	check(l.t, l.admin.Create(l.t.Context(), o))
}

// denied checks that the policy denies each of several requests, which are dry runs.
func (l limited) denied(requests map[string]error) {
	l.t.Helper()
	for what, err := range requests {
		if !l.isDenied(err) {
			l.t.Errorf("%s: got %v, want a denial", what, err)
		}
	}
}

// allowed checks that nothing denies each of several requests, which are dry runs.
func (l limited) allowed(requests map[string]error) {
	l.t.Helper()
	for what, err := range requests {
		if err != nil {
			l.t.Errorf("%s: %v", what, err)
		}
	}
}

// update returns the result of the component's dry run of a changed object.
func update[T client.Object](l limited, o T, change func(T)) error {
	l.t.Helper()
	changed, ok := o.DeepCopyObject().(T)
	if !ok {
		l.t.Fatalf("a copy of %T is another type", o)
	}
	change(changed)
	return l.component.Update(l.t.Context(), changed, client.DryRunAll)
}

// TestBrokerWritesOnlyIssuing: a compromised broker cannot forge a status, from which new Pods get
// the endpoint and the audience of a token.
func TestBrokerWritesOnlyIssuing(t *testing.T) {
	// apply writes a status as the broker does, by server-side apply.
	apply := func(ctx context.Context, l limited, status map[string]any) error {
		return l.component.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(targetClusterStatus(l.namespace, status)),
			client.FieldOwner("keyferry-broker"), client.ForceOwnership, client.DryRunAll)
	}
	condition := func(kind, status string) map[string]any {
		return map[string]any{"conditions": []any{map[string]any{
			"type": kind, "status": status, "reason": "Forged", "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z",
		}}}
	}
	created := false
	l := limit(t, "broker", "broker-policy.yaml", "may change only the condition Issuing", func(ctx context.Context, l limited) error {
		if !created {
			l.create(targetCluster(l.namespace))
			created = true
		}
		return apply(ctx, l, map[string]any{"subjectTokenAudience": "https://kubernetes.default.svc"})
	})
	issuing := condition(v1alpha1.ConditionIssuing, "False")
	l.allowed(map[string]error{"Issuing, in an empty status": apply(t.Context(), l, issuing)})

	cluster := &v1alpha1.TargetCluster{}
	check(t, l.admin.Get(t.Context(), client.ObjectKey{Namespace: l.namespace, Name: "tenant-1"}, cluster))
	now := metav1.Now()
	cluster.Status = v1alpha1.TargetClusterStatus{
		ObservedGeneration: 1, Endpoint: "https://203.0.113.7:6443", Delivery: v1alpha1.DeliveryDirect, DeliveryReason: "a token",
		SubjectTokenAudience: "sts.amazonaws.com", ServerVersion: "v1.36.0", ClusterUID: "uid",
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionTrue, Reason: "Resolved", LastTransitionTime: now},
			{Type: v1alpha1.ConditionIssuing, Status: metav1.ConditionTrue, Reason: "Issued", LastTransitionTime: now},
			{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready", LastTransitionTime: now},
		},
	}
	check(t, l.admin.Status().Update(t.Context(), cluster))
	l.allowed(map[string]error{"Issuing": apply(t.Context(), l, issuing)})
	l.denied(map[string]error{
		"audience":         apply(t.Context(), l, map[string]any{"subjectTokenAudience": "https://kubernetes.default.svc"}),
		"endpoint":         apply(t.Context(), l, map[string]any{"endpoint": "https://evil.example.com:443"}),
		"delivery":         apply(t.Context(), l, map[string]any{"delivery": "Proxy"}),
		"delivery reason":  apply(t.Context(), l, map[string]any{"deliveryReason": "forged"}),
		"cluster UID":      apply(t.Context(), l, map[string]any{"clusterUID": "forged"}),
		"version":          apply(t.Context(), l, map[string]any{"serverVersion": "v1.0.0"}),
		"generation":       apply(t.Context(), l, map[string]any{"observedGeneration": int64(7)}),
		"Resolved":         apply(t.Context(), l, condition(v1alpha1.ConditionResolved, "False")),
		"Ready":            apply(t.Context(), l, condition(v1alpha1.ConditionReady, "False")),
		"a condition more": apply(t.Context(), l, condition("Forged", "True")),
	})
	for what, change := range map[string]func(*v1alpha1.TargetClusterStatus){
		"no audience":      func(s *v1alpha1.TargetClusterStatus) { s.SubjectTokenAudience = "" },
		"a condition less": func(s *v1alpha1.TargetClusterStatus) { s.Conditions = s.Conditions[1:] },
		"no status":        func(s *v1alpha1.TargetClusterStatus) { *s = v1alpha1.TargetClusterStatus{} },
	} {
		changed := cluster.DeepCopy()
		change(&changed.Status)
		l.denied(map[string]error{what: l.component.Status().Update(t.Context(), changed, client.DryRunAll)})
		l.allowed(map[string]error{what + ", by another user": l.admin.Status().Update(t.Context(), changed, client.DryRunAll)})
	}
}

// TestControllerWritesOnlyItsConfigMaps: RBAC allows the controller to create any ConfigMap in any
// namespace.
func TestControllerWritesOnlyItsConfigMaps(t *testing.T) {
	configMap := func(l limited, name string, keys ...string) *corev1.ConfigMap {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: name}, Data: map[string]string{}}
		for _, key := range keys {
			cm.Data[key] = "value"
		}
		return cm
	}
	l := limit(t, "controller", "controller-objects-policy.yaml", "keyferry-controller may write only its keys in the ConfigMaps", func(ctx context.Context, l limited) error {
		return l.component.Create(ctx, configMap(l, "other"), client.DryRunAll)
	})
	create := func(cm *corev1.ConfigMap) error { return l.component.Create(t.Context(), cm, client.DryRunAll) }
	binary := configMap(l, "keyferry-trust", "ca.crt")
	binary.BinaryData = map[string][]byte{"more": {0}}
	const prefix = "fleet_tenant-1.example"
	federation := []string{prefix + ".ca.crt", prefix + ".namespace", prefix + ".host", prefix + ".port"}
	l.denied(map[string]error{
		"a dashboard":             create(configMap(l, "dashboard", "dashboard.json")),
		"another key":             create(configMap(l, "keyferry-trust", "ca.crt", "dashboard.json")),
		"binary data":             create(binary),
		"another federation key":  create(configMap(l, "keyferry-federation", "dashboard.json")),
		"key without a namespace": create(configMap(l, "keyferry-federation", "tenant-1.ca.crt")),
	})
	l.allowed(map[string]error{
		"trust":           create(configMap(l, "keyferry-trust", "ca.crt")),
		"federation":      create(configMap(l, "keyferry-federation", federation...)),
		"by another user": l.admin.Create(t.Context(), configMap(l, "other"), client.DryRunAll),
	})

	other, trust := configMap(l, "other"), binary
	trust.Finalizers = []string{"example.com/kept"}
	l.create(other)
	l.create(trust)
	l.denied(map[string]error{
		"label of another one": update(l, other, func(cm *corev1.ConfigMap) { cm.Labels = map[string]string{"a": "b"} }),
		"more keys":            update(l, trust, func(cm *corev1.ConfigMap) { cm.Data["dashboard.json"] = "{}" }),
	})
	l.allowed(map[string]error{
		"restored": update(l, trust, func(cm *corev1.ConfigMap) { cm.BinaryData = nil }),
		// Before the controller replaces an immutable one.
		"without finalizers": update(l, trust, func(cm *corev1.ConfigMap) { cm.Finalizers = nil }),
	})
}

// TestControllerChangesOnlyTheFinalizerOfRequests: RBAC allows the controller to change the spec of
// CredentialRequests, and so their targets and ServiceAccounts.
func TestControllerChangesOnlyTheFinalizerOfRequests(t *testing.T) {
	request := &v1alpha1.CredentialRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "robot", Finalizers: []string{"example.com/kept"}, Labels: map[string]string{"a": "b"}},
		Spec: v1alpha1.CredentialRequestSpec{
			TargetCluster: v1alpha1.ObjectReference{Namespace: "fleet", Name: "tenant-1"}, ServiceAccountName: "web",
			Type: v1alpha1.CredentialKubeconfig, Secret: v1alpha1.CredentialSecret{Name: "robot"},
		},
	}
	target := func(r *v1alpha1.CredentialRequest) { r.Spec.TargetCluster.Name = "production" }
	l := limit(t, "controller", "controller-objects-policy.yaml", "keyferry-controller may change only the status and the finalizer", func(_ context.Context, l limited) error {
		if request.UID == "" {
			request.Namespace = l.namespace
			l.create(request)
		}
		return update(l, request, func(r *v1alpha1.CredentialRequest) { r.Labels = nil })
	})
	for what, change := range map[string]func(*v1alpha1.CredentialRequest){
		"target":              target,
		"ServiceAccount":      func(r *v1alpha1.CredentialRequest) { r.Spec.ServiceAccountName = "admin" },
		"Secret":              func(r *v1alpha1.CredentialRequest) { r.Spec.Secret.Name = "other" },
		"label":               func(r *v1alpha1.CredentialRequest) { r.Labels = nil },
		"annotation":          func(r *v1alpha1.CredentialRequest) { r.Annotations = map[string]string{"a": "b"} },
		"another's finalizer": func(r *v1alpha1.CredentialRequest) { r.Finalizers = []string{v1alpha1.FinalizerRevocation} },
		"owner": func(r *v1alpha1.CredentialRequest) {
			r.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "1"}}
		},
	} {
		l.denied(map[string]error{what: update(l, request, change)})
	}
	request.Finalizers = append(request.Finalizers, v1alpha1.FinalizerRevocation)
	check(t, l.component.Update(t.Context(), request))
	request.Status.ObservedGeneration = 1
	check(t, l.component.Status().Update(t.Context(), request))
	request.Finalizers = request.Finalizers[:1]
	check(t, l.component.Update(t.Context(), request))
	l.allowed(map[string]error{"spec, by another user": func() error {
		changed := request.DeepCopy()
		target(changed)
		return l.admin.Update(t.Context(), changed, client.DryRunAll)
	}()})
}

// TestControllerWritesOnlyItsSecrets: RBAC allows the controller to write all Secrets of namespaces
// with CredentialRequests, and to create Secrets in its own namespace.
func TestControllerWritesOnlyItsSecrets(t *testing.T) {
	yes := true
	owner := func(apiVersion, kind string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: "robot", UID: "1", Controller: &yes}}
	}
	secret := func(namespace, name string, changes ...func(*corev1.Secret)) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string][]byte{"tls.crt": []byte("x"), "tls.key": []byte("x")}}
		for _, change := range changes {
			change(s)
		}
		return s
	}
	labelled := func(s *corev1.Secret) { s.Labels = map[string]string{v1alpha1.LabelCredentialRequest: "robot"} }
	ofRequest := func(s *corev1.Secret) { s.OwnerReferences = owner("keyferry.dev/v1alpha1", "CredentialRequest") }
	ofAnother := func(s *corev1.Secret) { s.OwnerReferences = owner("v1", "ConfigMap") }
	ofAccount := func(s *corev1.Secret) {
		s.Type, s.Annotations = corev1.SecretTypeServiceAccountToken, map[string]string{corev1.ServiceAccountNameKey: "default"}
	}
	ofTLS := func(s *corev1.Secret) { s.Type = corev1.SecretTypeTLS }
	l := limit(t, "controller", "controller-objects-policy.yaml", "keyferry-controller may write only Secrets of CredentialRequests", func(ctx context.Context, l limited) error {
		return l.component.Create(ctx, secret(l.namespace, "other"), client.DryRunAll)
	})
	check(t, client.IgnoreAlreadyExists(l.admin.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "keyferry-system"}})))

	create := func(s *corev1.Secret) error { return l.component.Create(t.Context(), s, client.DryRunAll) }
	l.denied(map[string]error{
		"a token":                      create(secret(l.namespace, "token", ofAccount, labelled)),
		"a token of a request":         create(secret(l.namespace, "token", ofAccount, ofRequest)),
		"of another owner, with label": create(secret(l.namespace, "other", labelled, ofAnother)),
		"certificate elsewhere":        create(secret(l.namespace, "keyferry-ca", ofTLS)),
		"another one at Keyferry":      create(secret("keyferry-system", "other", ofTLS)),
		"a token at Keyferry":          create(secret("keyferry-system", "keyferry-ca", ofAccount)),
		"of a request at Keyferry":     create(secret("keyferry-system", "robot", labelled, ofRequest)),
	})
	l.allowed(map[string]error{
		"of a request":               create(secret(l.namespace, "robot", labelled, ofRequest)),
		"certificate":                create(secret("keyferry-system", "keyferry-ca", ofTLS)),
		"other one, by another user": l.admin.Create(t.Context(), secret(l.namespace, "other"), client.DryRunAll),
	})

	other, another, adopted, made := secret(l.namespace, "other"), secret(l.namespace, "another", labelled, ofAnother),
		secret(l.namespace, "adopted", labelled), secret(l.namespace, "made", labelled, ofRequest)
	token := secret(l.namespace, "token", labelled, ofAccount)
	for _, s := range []*corev1.Secret{other, another, adopted, made, token} {
		l.create(s)
	}
	remove := func(s *corev1.Secret) error { return l.component.Delete(t.Context(), s, client.DryRunAll) }
	content := func(s *corev1.Secret) { s.Data = map[string][]byte{"kubeconfig": []byte("x")} }
	l.denied(map[string]error{
		"deletion of another one":     remove(other),
		"deletion of another owner's": remove(another),
		"label on another one":        update(l, other, labelled),
		"owner of another one":        update(l, other, ofRequest),
		"content of another owner's":  update(l, another, content),
		"owner of another owner's":    update(l, another, ofRequest),
		"token of another account": update(l, token, func(s *corev1.Secret) {
			s.Annotations = map[string]string{corev1.ServiceAccountNameKey: "admin"}
		}),
		"without a label and an owner": update(l, made, func(s *corev1.Secret) { s.Labels, s.OwnerReferences = nil, nil }),
	})
	l.allowed(map[string]error{
		"adopted":                  update(l, adopted, ofRequest),
		"renewed":                  update(l, made, content),
		"without its label":        update(l, made, func(s *corev1.Secret) { s.Labels = nil }),
		"deletion":                 remove(made),
		"deletion of one adopted":  remove(adopted),
		"deletion by another user": l.admin.Delete(t.Context(), other, client.DryRunAll),
	})
}

// targetClusterStatus returns a TargetCluster of which only the status is applied.
func targetClusterStatus(namespace string, status map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("TargetCluster"))
	u.SetNamespace(namespace)
	u.SetName("tenant-1")
	return u
}

func targetCluster(namespace string) *v1alpha1.TargetCluster {
	return &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tenant-1"},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: "access"}},
			Issue:  v1alpha1.Issue{Type: v1alpha1.IssueAccess},
		},
	}
}
