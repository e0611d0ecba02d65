package events

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/keyferry/keyferry/cli/terminal"
)

// TestEvents: Keyferry's, and those about Pods that it denied; the newest last.
func TestEvents(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	made := func(name, controller, reason, note string, ago time.Duration) *eventsv1.Event {
		return &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name}, ReportingController: controller, Type: "Warning", Reason: reason, Note: note,
			EventTime: metav1.NewMicroTime(now.Add(-ago)), Regarding: corev1.ObjectReference{Kind: "Thing", Namespace: "app", Name: name},
		}
	}
	repeated := made("tenant-1", "keyferry-controller", "Unreachable", "no route", time.Hour)
	repeated.Series = &eventsv1.EventSeries{Count: 7, LastObservedTime: metav1.NewMicroTime(now.Add(-time.Minute))}
	c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(
		made("web", "replicaset-controller", "FailedCreate", `admission webhook "pods.keyferry.dev" denied the request: no`, time.Second),
		made("other", "replicaset-controller", "FailedCreate", "exceeded quota", time.Second),
		made("node", "kubelet", "Pulled", "keyferry.dev", time.Second),
		repeated,
	).Build()
	found, err := Read(t.Context(), c, "app")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := WriteText(&text, terminal.Palette{}, found, now); err != nil {
		t.Fatal(err)
	}
	want := `LAST SEEN   TYPE      REASON         OBJECT               MESSAGE
60s (x7)    Warning   Unreachable    Thing app/tenant-1   no route
1s          Warning   FailedCreate   Thing app/web        admission webhook "pods.keyferry.dev" denied the request: no
`
	if text.String() != want {
		t.Errorf("got\n%swant\n%s", text.String(), want)
	}
}
