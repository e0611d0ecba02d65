package dashboard_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/use"
)

// fleet writes the objects of a management cluster, as Keyferry and the kubelet would.
type fleet struct {
	client.Client
	tb testing.TB
}

func (f fleet) must(err error) {
	f.tb.Helper()
	if err != nil {
		f.tb.Fatal(err)
	}
}

func (f fleet) create(o client.Object) {
	f.tb.Helper()
	f.must(client.IgnoreAlreadyExists(f.Create(context.Background(), o)))
}

func (f fleet) namespaces(names ...string) {
	f.tb.Helper()
	for _, name := range names {
		f.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
}

// targetOptions describe a TargetCluster; the zero value is a ready one.
type targetOptions struct {
	reason, message string
	delivery        v1alpha1.Delivery
	version         string
}

func (f fleet) target(name string, o targetOptions) {
	f.tb.Helper()
	tc := &v1alpha1.TargetCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: name},
		Spec: v1alpha1.TargetClusterSpec{
			Access: v1alpha1.Access{Type: v1alpha1.AccessKubeconfig, Kubeconfig: &v1alpha1.KubeconfigAccess{Name: name}},
			Issue: v1alpha1.Issue{Type: v1alpha1.IssueTokenRequest, TokenRequest: &v1alpha1.TokenRequestIssue{
				ServiceAccount: v1alpha1.RemoteServiceAccount{Type: v1alpha1.ServiceAccountFixed, Namespace: "keyferry-pods", Name: "fleet." + name},
			}},
		},
	}
	f.create(tc)
	f.health(name, o)
}

// health writes the status of a TargetCluster, as the controller does.
func (f fleet) health(name string, o targetOptions) {
	f.tb.Helper()
	tc := &v1alpha1.TargetCluster{}
	f.must(f.Get(context.Background(), types.NamespacedName{Namespace: "fleet", Name: name}, tc))
	delivery := o.delivery
	if delivery == "" {
		delivery = v1alpha1.DeliveryDirect
	}
	version := o.version
	if version == "" {
		version = "v1.36.3"
	}
	tc.Status = v1alpha1.TargetClusterStatus{
		ObservedGeneration: tc.Generation, Endpoint: "https://" + name + ".example.com:6443", Delivery: delivery, ServerVersion: version,
		ClusterUID: "3f0c9a52-7f0e-4c3e-9d53-2f6f4d1b8a11",
	}
	condition := func(kind, reason, message string, is metav1.ConditionStatus) {
		tc.Status.Conditions = append(tc.Status.Conditions, metav1.Condition{
			Type: kind, Status: is, Reason: reason, Message: message, ObservedGeneration: tc.Generation, LastTransitionTime: metav1.NewTime(time.Now().Add(-3 * time.Hour)),
		})
	}
	if delivery == v1alpha1.DeliveryProxy {
		tc.Status.DeliveryReason = "the endpoint has a path"
	}
	condition(v1alpha1.ConditionResolved, "Resolved", "endpoint and access credential are valid", metav1.ConditionTrue)
	if o.reason == "" {
		condition(v1alpha1.ConditionReachable, "Reachable", "the API server answers", metav1.ConditionTrue)
		condition(v1alpha1.ConditionIssuing, "Issued", "the last credential was issued", metav1.ConditionTrue)
		condition(v1alpha1.ConditionReady, "Ready", "", metav1.ConditionTrue)
	} else {
		condition(v1alpha1.ConditionReachable, o.reason, o.message, metav1.ConditionFalse)
		condition(v1alpha1.ConditionReady, o.reason, o.message, metav1.ConditionFalse)
	}
	f.must(f.Status().Update(context.Background(), tc))
}

// podOptions describe an injected Pod; the zero value has a credential.
type podOptions struct {
	account, workload, waiting, message, delivery string
	raw                                           string // of the annotation keyferry.dev/status
}

func (f fleet) pod(namespace, name, target string, o podOptions) {
	f.tb.Helper()
	f.must(f.writePod(namespace, name, target, o))
}

// writePod is pod for a goroutine.
func (f fleet) writePod(namespace, name, target string, o podOptions) error {
	if o.account == "" {
		o.account = "default"
	}
	if o.delivery == "" {
		o.delivery = "Direct"
	}
	if o.raw == "" {
		raw, err := json.Marshal(injector.Status{Clusters: []string{target}, Delivery: o.delivery, Containers: []string{"app"}})
		if err != nil {
			return err
		}
		o.raw = string(raw)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{injector.AnnotationStatus: o.raw}},
		Spec: corev1.PodSpec{
			ServiceAccountName: o.account, Containers: []corev1.Container{{Name: "app", Image: "app"}},
			InitContainers: []corev1.Container{{Name: injector.RefresherContainer, Image: "refresher", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}},
		},
	}
	if o.workload != "" {
		pod.Labels = map[string]string{"pod-template-hash": "7d9c5b"}
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: o.workload + "-7d9c5b", UID: "1", Controller: ptr.To(true)}}
	}
	if err := client.IgnoreAlreadyExists(f.Create(context.Background(), pod)); err != nil {
		return err
	}
	state := corev1.ContainerStatus{Name: injector.RefresherContainer, Started: ptr.To(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	pod.Status.Phase = corev1.PodRunning
	if o.waiting != "" {
		pod.Status.Phase = corev1.PodPending
		state.Started, state.State = ptr.To(false), corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: o.waiting, Message: o.message}}
	}
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{state}
	return f.Status().Update(context.Background(), pod)
}

func (f fleet) request(namespace, name, target string, expires time.Duration) {
	f.tb.Helper()
	r := &v1alpha1.CredentialRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.CredentialRequestSpec{
			TargetCluster: v1alpha1.ObjectReference{Namespace: "fleet", Name: target}, ServiceAccountName: "robot",
			Type: v1alpha1.CredentialTokenFile, Secret: v1alpha1.CredentialSecret{Name: name},
		},
	}
	f.create(r)
	at := time.Now().Add(expires)
	r.Status = v1alpha1.CredentialRequestStatus{
		ObservedGeneration: r.Generation, ExpirationTimestamp: ptr.To(metav1.NewTime(at)), RenewAt: ptr.To(metav1.NewTime(at.Add(-12 * time.Minute))),
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready", LastTransitionTime: metav1.Now()}},
	}
	f.must(f.Status().Update(context.Background(), r))
}

// grant is what keyferry grant creates.
func (f fleet) grant(target, namespace, account string) {
	f.tb.Helper()
	f.create(use.Role(use.TargetCluster(types.NamespacedName{Namespace: "fleet", Name: target})))
	f.create(binding(target, namespace, account))
}

func (f fleet) revoke(target, namespace, account string) {
	f.tb.Helper()
	f.must(f.Delete(context.Background(), binding(target, namespace, account)))
}

func binding(target, namespace, account string) *rbacv1.RoleBinding {
	return use.Binding(types.NamespacedName{Namespace: namespace, Name: account}, use.TargetCluster(types.NamespacedName{Namespace: "fleet", Name: target}))
}

// event records an Event about a TargetCluster.
func (f fleet) event(name, reason, note string, ago time.Duration) {
	f.tb.Helper()
	f.create(&eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", GenerateName: "e-"}, EventTime: metav1.NewMicroTime(time.Now().Add(-ago)),
		ReportingController: "keyferry-controller", ReportingInstance: "a", Action: "Probe", Type: map[bool]string{true: "Normal", false: "Warning"}[reason == "Recovered"],
		Reason: reason, Note: note, Regarding: corev1.ObjectReference{Kind: "TargetCluster", Namespace: "fleet", Name: name},
	})
}

const (
	unreachable = "TargetCluster fleet/paris: https://paris.example.com:6443 does not answer: dial tcp 203.0.113.7:6443: i/o timeout: " +
		"check spec.endpoint.server, and that the broker's Pods may connect to it"
	noRights = "TargetCluster fleet/tokyo: the access credential may not create serviceaccounts/token in namespace keyferry-pods of the target: " +
		"run keyferry target rotate fleet/tokyo --context tokyo"
)

// example is the fleet of the screenshots.
func (f fleet) example() {
	f.tb.Helper()
	f.namespaces("fleet", "shop", "data", "ci", "monitoring")
	for _, name := range []string{"berlin", "dublin", "madrid", "oslo", "vienna"} {
		f.target(name, targetOptions{})
	}
	f.target("lagos", targetOptions{delivery: v1alpha1.DeliveryProxy, version: "v1.34.9"})
	f.target("paris", targetOptions{reason: "Unreachable", message: unreachable})
	f.target("tokyo", targetOptions{reason: "NotAllowed", message: noRights, version: "v1.35.2"})
	for i := range 5 {
		f.pod("shop", fmt.Sprintf("web-7d9c5b-%05d", i*7919+10), "fleet/berlin", podOptions{account: "web", workload: "web"})
	}
	f.pod("shop", "web-7d9c5b-x8v2k", "fleet/berlin", podOptions{
		account: "web", workload: "web", waiting: "CrashLoopBackOff", message: "back-off 40s restarting failed container",
	})
	for i := range 3 {
		f.pod("data", fmt.Sprintf("etl-7d9c5b-%05d", i*104+7), "fleet/paris", podOptions{account: "etl", workload: "etl"})
	}
	f.pod("data", "report-0", "fleet/lagos", podOptions{account: "report", delivery: "Proxy"})
	f.pod("ci", "runner-1", "fleet/madrid", podOptions{account: "runner"})
	f.pod("ci", "runner-2", "fleet/vienna", podOptions{account: "runner"})
	f.request("monitoring", "prometheus", "berlin", 41*time.Minute)
	f.request("monitoring", "thanos", "dublin", 26*time.Minute)
	f.request("ci", "argo-cd", "oslo", 3*time.Hour)
	for target, accounts := range map[string][][2]string{
		"berlin": {{"shop", "web"}, {"monitoring", "robot"}}, "dublin": {{"monitoring", "robot"}}, "oslo": {{"ci", "robot"}},
		"paris": {{"data", "etl"}}, "lagos": {{"data", "report"}}, "madrid": {{"ci", "runner"}},
	} {
		for _, account := range accounts {
			f.grant(target, account[0], account[1])
		}
	}
	f.create(&rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "use-all-targets"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"keyferry.dev"}, Resources: []string{"targetclusters"}, Verbs: []string{"use"}}},
	})
	f.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "platform-uses-all-targets"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "use-all-targets"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:serviceaccounts:platform"}},
	})
	f.event("paris", "Unreachable", unreachable, 4*time.Minute)
	f.event("tokyo", "NotAllowed", noRights, 38*time.Minute)
	f.event("madrid", "Recovered", "the API server answers again", 52*time.Minute)
}

// clear removes what other tests would see.
func (f fleet) clear() {
	f.tb.Helper()
	ctx := context.Background()
	namespaces := &corev1.NamespaceList{}
	f.must(f.List(ctx, namespaces))
	for _, n := range namespaces.Items {
		in := client.InNamespace(n.Name)
		for _, o := range []client.Object{&v1alpha1.TargetCluster{}, &v1alpha1.CredentialRequest{}, &rbacv1.Role{}, &rbacv1.RoleBinding{}, &eventsv1.Event{}} {
			f.must(f.DeleteAllOf(ctx, o, in))
		}
		f.must(f.DeleteAllOf(ctx, &corev1.Pod{}, in, client.GracePeriodSeconds(0)))
	}
	for _, o := range []client.Object{
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "use-all-targets"}}, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "platform-uses-all-targets"}},
	} {
		if err := f.Delete(ctx, o); !apierrors.IsNotFound(err) {
			f.must(err)
		}
	}
}
