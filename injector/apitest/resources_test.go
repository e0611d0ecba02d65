package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/testenv"
)

// policyPod returns a Pod with resources of its container, of the whole Pod, and of the sidecar in
// the annotation; each is JSON or empty.
func policyPod(t *testing.T, container, pod, named string) []byte {
	t.Helper()
	annotations := map[string]string{injector.AnnotationCluster: "fleet/tenant-1"}
	if named != "" {
		annotations[injector.AnnotationRefresherResources] = named
	}
	spec := map[string]any{
		"serviceAccountName": "default",
		"containers":         []any{map[string]any{"name": "app", "image": "example.com/app:1", "resources": json.RawMessage(orEmpty(container))}},
	}
	if pod != "" {
		spec["resources"] = json.RawMessage(pod)
	}
	raw, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "web", "annotations": annotations}, "spec": spec,
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func orEmpty(text string) string {
	if text == "" {
		return "{}"
	}
	return text
}

// admitted returns the injected Pod as it would be stored, or the API server's error.
func admitted(t *testing.T, namespace string, raw []byte) (corev1.Pod, error) {
	t.Helper()
	ops, err := installation{able: true}.inject(t, raw)
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	created, err := tryCreate(t, namespace, apply(t, raw, ops))
	if err == nil {
		err = json.Unmarshal(created, &pod)
	}
	return pod, err
}

// fits are resources of the application that all policies below accept.
const fits = `{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"cpu":"200m","memory":"64Mi"}}`

// documented checks that the troubleshooting page has a message of the API server.
func documented(t *testing.T, message string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(strings.Fields(string(page)), " "), message) {
		t.Errorf("docs/troubleshooting.md lacks the message %q", message)
	}
}

// TestLimitRange checks that the sidecar's default resources fit common LimitRanges, and that the
// annotation makes them fit others.
func TestLimitRange(t *testing.T) {
	for name, test := range map[string]struct{ limits, named, denied string }{
		"defaults":              {`{"default":{"cpu":"500m","memory":"512Mi"},"defaultRequest":{"cpu":"100m","memory":"128Mi"}}`, "", ""},
		"minimum":               {`{"min":{"cpu":"10m","memory":"32Mi"}}`, "", ""},
		"maximum":               {`{"max":{"cpu":"500m","memory":"128Mi"}}`, "", ""},
		"ratio":                 {`{"maxLimitRequestRatio":{"cpu":"50","memory":"4"}}`, "", ""},
		"higher minimum":        {`{"min":{"cpu":"50m","memory":"64Mi"}}`, "", "minimum cpu usage per Container is 50m, but request is 10m"},
		"higher minimum, named": {`{"min":{"cpu":"50m","memory":"64Mi"}}`, `{"requests":{"cpu":"50m","memory":"64Mi"}}`, ""},
		"lower maximum":         {`{"max":{"memory":"100Mi"}}`, "", "maximum memory usage per Container is 100Mi, but limit is 128Mi"},
		"lower maximum, named":  {`{"max":{"memory":"256Mi","cpu":"400m"}}`, `{"limits":{"cpu":"400m"}}`, ""},
		"lower ratio":           {`{"maxLimitRequestRatio":{"cpu":"10"}}`, "", "cpu max limit to request ratio per Container is 10, but provided ratio is 50.000000"},
		"lower ratio, named":    {`{"maxLimitRequestRatio":{"cpu":"10"}}`, `{"requests":{"cpu":"50m"}}`, ""},
		// fits and the sidecar have limits of 700m CPU and 192Mi of memory together.
		"Pod":                 {`{"type":"Pod","max":{"cpu":"700m","memory":"192Mi"},"min":{"cpu":"110m"}}`, "", ""},
		"Pod's CPU":           {`{"type":"Pod","max":{"cpu":"500m"}}`, "", "maximum cpu usage per Pod is 500m, but limit is 700m"},
		"Pod's CPU, named":    {`{"type":"Pod","max":{"cpu":"500m"}}`, `{"limits":{"cpu":"300m"}}`, ""},
		"Pod's memory":        {`{"type":"Pod","max":{"memory":"128Mi"}}`, "", "maximum memory usage per Pod is 128Mi, but limit is 192Mi"},
		"Pod's memory, named": {`{"type":"Pod","max":{"memory":"128Mi"}}`, `{"limits":{"memory":"64Mi"}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := limitedNamespace(t, "range-"+name, test.limits)
			_, err := admitted(t, namespace, policyPod(t, fits, "", test.named))
			if test.denied == "" && err != nil || test.denied != "" && !strings.Contains(fmt.Sprint(err), test.denied) {
				t.Errorf("got %v, want %q", err, test.denied)
			}
			documented(t, test.denied)
		})
	}
}

// limitedNamespace creates a namespace with a LimitRange, and returns its name. The LimitRange is
// for containers, unless limits sets another type.
func limitedNamespace(t *testing.T, name, limits string) string {
	t.Helper()
	name = strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(strings.ToLower(name))
	createNamespace(t, name, nil)
	item := corev1.LimitRangeItem{Type: corev1.LimitTypeContainer}
	if err := json.Unmarshal([]byte(limits), &item); err != nil {
		t.Fatal(err)
	}
	object := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "limits"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}}}
	if _, err := client.CoreV1().LimitRanges(name).Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestLimitRangeAndPodLevelResources checks that the defaults of a LimitRange for the sidecar do
// not exceed the resources of the whole Pod, and that the annotation satisfies a minimum.
func TestLimitRangeAndPodLevelResources(t *testing.T) {
	const (
		sum     = `{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"cpu":"200m","memory":"64Mi"}}`
		room    = `{"requests":{"cpu":"200m","memory":"128Mi"},"limits":{"cpu":"200m","memory":"128Mi"}}`
		minimum = `{"min":{"cpu":"10m","memory":"32Mi"}}`
		named   = `{"requests":{"cpu":"10m","memory":"32Mi"}}`
		without = "minimum cpu usage per Container is 10m, but request is 0"
	)
	for name, test := range map[string]struct {
		limits, pod, named string
		denied             string
		byPod              bool // by the check of the Pod-level resources
	}{
		"defaults":                       {limits: `{"default":{"cpu":"500m","memory":"512Mi"},"defaultRequest":{"cpu":"100m","memory":"128Mi"}}`, pod: sum},
		"default limits only":            {limits: `{"default":{"cpu":"500m","memory":"512Mi"}}`, pod: sum},
		"maximum":                        {limits: `{"max":{"cpu":"2","memory":"2Gi"}}`, pod: sum},
		"low maximum":                    {limits: `{"max":{"cpu":"500m","memory":"128Mi"}}`, pod: room},
		"minimum":                        {limits: minimum, pod: room, denied: without},
		"minimum, named":                 {limits: minimum, pod: room, named: named},
		"minimum, named and no room":     {limits: minimum, pod: sum, named: named, denied: "must be greater than or equal to aggregate container requests of 110m", byPod: true},
		"limit above that of the pod":    {limits: `{"max":{"cpu":"2"}}`, pod: sum, named: `{"limits":{"cpu":"1"}}`},
		"defaults, and the request of 0": {limits: `{"default":{"cpu":"500m","memory":"512Mi"}}`, pod: sum, named: `{"requests":{"cpu":"0"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := limitedNamespace(t, "pod-range-"+name, test.limits)
			raw := policyPod(t, fits, test.pod, test.named)
			create(t, namespace, raw) // without the sidecar
			want := test.denied
			if test.byPod && !testenv.Has(testenv.PodLevelResources) {
				want = ""
			}
			_, err := admitted(t, namespace, raw)
			if want == "" && err != nil || want != "" && !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

// TestResourceQuota: a quota denies containers without a request or limit for a resource that it
// counts.
func TestResourceQuota(t *testing.T) {
	const namespace = "quota"
	limitNamespace(t, namespace, `{"requests.cpu":"4","requests.memory":"8Gi","limits.cpu":"8","limits.memory":"16Gi"}`)
	for _, named := range []string{"", `{}`, `{"limits":{"memory":"256Mi"}}`, `{"requests":{"cpu":"20m"}}`} {
		if _, err := admitted(t, namespace, policyPod(t, fits, "", named)); err != nil {
			t.Errorf("with %q: %v", named, err)
		}
	}
}

// TestExceededQuota: the sidecar counts in a quota. The annotation can lower its limits, and its
// requests.
func TestExceededQuota(t *testing.T) {
	const namespace = "small-quota"
	limitNamespace(t, namespace, `{"requests.cpu":"4","requests.memory":"8Gi","limits.cpu":"500m","limits.memory":"16Gi"}`)
	const denied = "exceeded quota: all, requested: limits.cpu=700m, used: limits.cpu=0, limited: limits.cpu=500m"
	if _, err := admitted(t, namespace, policyPod(t, fits, "", "")); !strings.Contains(fmt.Sprint(err), denied) {
		t.Errorf("got %v, want %q", err, denied)
	}
	documented(t, denied)
	if _, err := admitted(t, namespace, policyPod(t, fits, "", `{"limits":{"cpu":"300m"}}`)); err != nil {
		t.Errorf("with lower limits: %v", err)
	}
}

// limitNamespace creates a namespace with the ResourceQuota all, and returns when the API server
// enforces the quota. text is the quota's hard limits as JSON.
func limitNamespace(t *testing.T, namespace, text string) {
	t.Helper()
	createNamespace(t, namespace, nil)
	var hard corev1.ResourceList
	if err := json.Unmarshal([]byte(text), &hard); err != nil {
		t.Fatal(err)
	}
	quotas := client.CoreV1().ResourceQuotas(namespace)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
	quota, err := quotas.Create(t.Context(), quota, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	quota.Status.Hard = hard
	quota.Status.Used = corev1.ResourceList{}
	for name := range hard {
		quota.Status.Used[name] = resource.Quantity{}
	}
	if _, err := quotas.UpdateStatus(t.Context(), quota, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The admission plugin's cache gives no sign: it acts once it denies a Pod without resources.
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) {
		_, err := tryCreate(t, namespace, policyPod(t, "", "", ""))
		return err != nil && strings.Contains(err.Error(), "must specify"), nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestPodLevelResources checks that requests and limits of the whole Pod stay unchanged, even if
// they are the exact sums.
func TestPodLevelResources(t *testing.T) {
	const namespace = "pod-level"
	createNamespace(t, namespace, nil)
	for name, test := range map[string]struct{ pod, container string }{
		"the sum of its containers": {`{"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"2","memory":"2Gi"}}`, `{"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"2","memory":"2Gi"}}`},
		"limits only":               {`{"limits":{"cpu":"4","memory":"8Gi"}}`, ""},
		"memory only":               {`{"requests":{"memory":"1Gi"}}`, `{"requests":{"memory":"1Gi"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			raw := policyPod(t, test.container, test.pod, "")
			var plain corev1.Pod
			if err := json.Unmarshal(create(t, namespace, raw), &plain); err != nil {
				t.Fatal(err)
			}
			got, err := admitted(t, namespace, raw)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := got.Spec.Resources.String(), plain.Spec.Resources.String(); a != b {
				t.Errorf("injected, the Pod has %s, and %s without", a, b)
			}
			if plain.Spec.Resources != nil && got.Status.QOSClass != plain.Status.QOSClass {
				t.Errorf("injected, its QoS class is %s, and %s without", got.Status.QOSClass, plain.Status.QOSClass)
			}
		})
	}
}

// TestQoSClass checks that the annotation keeps a Pod Guaranteed.
func TestQoSClass(t *testing.T) {
	const namespace = "qos"
	createNamespace(t, namespace, nil)
	for named, want := range map[string]corev1.PodQOSClass{
		"": corev1.PodQOSBurstable,
		`{"requests":{"cpu":"50m","memory":"64Mi"},"limits":{"cpu":"50m","memory":"64Mi"}}`: corev1.PodQOSGuaranteed,
	} {
		pod, err := admitted(t, namespace, policyPod(t, `{"limits":{"cpu":"2","memory":"1Gi"}}`, "", named))
		if err != nil {
			t.Fatal(err)
		}
		if pod.Status.QOSClass != want {
			t.Errorf("with %q the QoS class is %s, want %s", named, pod.Status.QOSClass, want)
		}
	}
}
