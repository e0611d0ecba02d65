package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/broker/wire"
	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/webhook"
)

// used is an object to use.
type used struct {
	group, resource string
	types.NamespacedName
}

func (u used) path() string {
	if u.resource == "clusterprofiles" {
		return wire.ClusterProfilePath(u.Namespace, u.Name)
	}
	return wire.TargetClusterPath(u.Namespace, u.Name)
}

func (u used) annotation() string {
	if u.resource == "clusterprofiles" {
		return injector.Prefix + "cluster-profile"
	}
	return injector.Prefix + "cluster"
}

var (
	accountNamespaces = []string{"rights-app", "rights-shop"}
	objectNamespaces  = []string{"rights-fleet", "rights-app"}
	accountNames      = []string{"default", "web", "db"}
	objectNames       = []string{"tenant-1", "tenant-1.example", "tenant-2"}
	resources         = []string{"targetclusters", "clusterprofiles"}
	groups            = map[string]string{"targetclusters": "keyferry.dev", "clusterprofiles": "multicluster.x-k8s.io"}
)

func accounts() (all []types.NamespacedName) {
	for _, namespace := range accountNamespaces {
		for _, name := range accountNames {
			all = append(all, types.NamespacedName{Namespace: namespace, Name: name})
		}
	}
	return all
}

func objects() (all []used) {
	for _, resource := range resources {
		for _, namespace := range objectNamespaces {
			for _, name := range objectNames {
				all = append(all, used{groups[resource], resource, types.NamespacedName{Namespace: namespace, Name: name}})
			}
		}
	}
	return all
}

// grants creates roles and bindings of all kinds, including many that almost grant a permission.
func grants(t *testing.T, c kubernetes.Interface, random *rand.Rand) {
	t.Helper()
	for i := range 40 {
		meta := metav1.ObjectMeta{Name: fmt.Sprintf("rights-%d", i)}
		resource := pick(random, resources)
		rule := rbacv1.PolicyRule{
			Verbs:     pick(random, [][]string{{"use"}, {"use"}, {"use"}, {"use"}, {"get", "use"}, {"*"}, {"get", "list", "watch"}, {"Use"}}),
			APIGroups: []string{pick(random, []string{groups[resource], groups[resource], groups[resource], groups[resource], "*", "", "keyferry.example"})},
			Resources: []string{pick(random, []string{resource, resource, resource, resource, "*", resource + "/status", "*/use", "secrets"})},
		}
		if random.IntN(3) > 0 {
			rule.ResourceNames = []string{pick(random, append(objectNames, "tenant", "tenant-*", "*"))}
		}
		subject := subjectOf(random)
		if random.IntN(8) == 0 {
			clusterRole(t, c, meta, rule, subject)
			continue
		}
		meta.Namespace = pick(random, objectNamespaces)
		namespaced(t, c, meta, rule, subject, random.IntN(3) == 0)
	}
}

func subjectOf(random *rand.Rand) rbacv1.Subject {
	namespace, name := pick(random, accountNamespaces), pick(random, accountNames)
	user := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind}
	group := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind}
	switch random.IntN(10) {
	case 0:
		group.Name = "system:serviceaccounts:" + namespace
		return group
	case 1:
		user.Name = "system:serviceaccount:" + namespace + ":" + name
		return user
	case 2:
		user.Name = name
		return user
	case 3:
		group.Name = pick(random, []string{"system:serviceaccounts:other", "system:masters", "system:unauthenticated", name})
		return group
	default:
		return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
	}
}

func clusterRole(t *testing.T, c kubernetes.Interface, meta metav1.ObjectMeta, rule rbacv1.PolicyRule, subject rbacv1.Subject) {
	t.Helper()
	_, err := c.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
	must(t, err)
	_, err = c.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, Subjects: []rbacv1.Subject{subject}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
	}, metav1.CreateOptions{})
	must(t, err)
}

func namespaced(t *testing.T, c kubernetes.Interface, meta metav1.ObjectMeta, rule rbacv1.PolicyRule, subject rbacv1.Subject, byClusterRole bool) {
	t.Helper()
	kind := "Role"
	if byClusterRole {
		kind = "ClusterRole"
		_, err := c.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: meta.Name}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
		must(t, err)
	} else {
		_, err := c.RbacV1().Roles(meta.Namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
		must(t, err)
	}
	_, err := c.RbacV1().RoleBindings(meta.Namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta, Subjects: []rbacv1.Subject{subject}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: meta.Name},
	}, metav1.CreateOptions{})
	must(t, err)
}

func pick[T any](random *rand.Rand, from []T) T { return from[random.IntN(len(from))] }

// TestWhoGetsWhat checks that admission and issue agree with RBAC for each ServiceAccount and
// object.
func TestWhoGetsWhat(t *testing.T) {
	c, err := kubernetes.NewForConfig(apiServer)
	must(t, err)
	tokens := map[types.NamespacedName]string{}
	for _, account := range accounts() {
		tokens[account] = tokenOf(t, c, runPod(t, c, account, "pod-of-"+account.Name))
	}
	runPod(t, c, types.NamespacedName{Namespace: "rights-fleet", Name: "other"}, "pod")
	const seed = 8
	grants(t, c, rand.New(rand.NewPCG(seed, seed)))

	issuing, _ := newBroker(t, apiServer, hurried())
	admitting := newWebhook(t, c)
	yes, no := 0, 0
	for _, account := range accounts() {
		for _, object := range objects() {
			// Again until all see the same roles: the API server learns of them by and by.
			var wanted bool
			eventually(t, func() error {
				wanted = mayUse(t, c, account, object)
				code, said := ask(t, issuing, object.path(), bearer(tokens[account]))
				issued := code == http.StatusOK
				if !issued && code != http.StatusForbidden {
					return fmt.Errorf("ServiceAccount %s, %v: the broker answers %d: %s", account, object, code, said)
				}
				admitted, err := admits(t, admitting, account, object)
				if err != nil {
					return err
				}
				if issued != wanted || admitted != wanted {
					return fmt.Errorf("seed %d: ServiceAccount %s, %v: RBAC says %t, admission %t, issue %t", seed, account, object, wanted, admitted, issued)
				}
				return nil
			})
			if wanted {
				yes++
			} else {
				no++
			}
		}
	}
	t.Logf("%d cells with the right, %d without", yes, no)
	if yes < 10 || no < 10 {
		t.Error("the matrix says little: use another seed")
	}
}

// mayUse returns the result of `kubectl auth can-i --as`.
func mayUse(t *testing.T, c kubernetes.Interface, account types.NamespacedName, object used) bool {
	t.Helper()
	review, err := c.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   "system:serviceaccount:" + account.Namespace + ":" + account.Name,
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + account.Namespace, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: "use", Group: object.group, Version: "v1alpha1", Resource: object.resource, Namespace: object.Namespace, Name: object.Name,
			},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	return review.Status.Allowed
}

// full is a reader that returns every TargetCluster.
type full struct{}

func (full) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	cluster, ok := object.(*v1alpha1.TargetCluster)
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
	}
	*cluster = v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Generation: 1},
		Status: v1alpha1.TargetClusterStatus{
			ObservedGeneration: 1, Endpoint: "https://203.0.113.7:6443", Delivery: v1alpha1.DeliveryDirect,
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionTrue}, {Type: v1alpha1.ConditionReachable, Status: metav1.ConditionTrue}},
		},
	}
	return nil
}

func (full) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("nothing lists")
}

func newWebhook(t *testing.T, c kubernetes.Interface) http.Handler {
	t.Helper()
	mayUse, err := webhook.NewMayUse(c.AuthorizationV1())
	must(t, err)
	handler, err := webhook.New(webhook.Config{
		Injection: injector.Config{
			Image: "keyferry.example/refresher:v1", Resources: injector.DefaultResources(), BrokerURL: "https://keyferry-broker.keyferry-system.svc", Version: "v1",
		},
		Cached: full{}, Live: full{}, MayUse: mayUse, FindLock: unlocked,
		Providers:     func() *clusterprofile.ProviderFile { return nil },
		EnvFromFile:   func() bool { return false },
		ImageVolume:   func() bool { return false },
		BrokerAddress: func(context.Context) (string, error) { return "10.96.4.2", nil },
		Metrics:       prometheus.NewRegistry(),
	})
	must(t, err)
	return handler
}

// admits reports whether the webhook does not deny a Pod of the ServiceAccount for missing
// permissions.
func admits(t *testing.T, handler http.Handler, account types.NamespacedName, object used) (bool, error) {
	t.Helper()
	pod := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}},"spec":{"serviceAccountName":%q,"containers":[{"name":"c"}]}}`, object.annotation(), object.NamespacedName, account.Name)
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "1", Namespace: account.Namespace, Operation: admissionv1.Create,
			Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, Object: runtime.RawExtension{Raw: []byte(pod)},
		},
	})
	must(t, err)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, webhook.PathPods, bytes.NewReader(body))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	var review admissionv1.AdmissionReview
	must(t, json.Unmarshal(w.Body.Bytes(), &review))
	switch answer := review.Response; {
	case answer.Allowed:
		return true, nil
	case answer.Result.Code == http.StatusForbidden:
		return false, nil
	case answer.Result.Code == http.StatusUnprocessableEntity && object.resource == "clusterprofiles":
		return true, nil // there is none, which is said only to who may use it
	default:
		return false, fmt.Errorf("ServiceAccount %s, %v: the webhook answers %d: %s", account, object, answer.Result.Code, answer.Result.Message)
	}
}
