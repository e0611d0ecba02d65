package audit

import (
	"fmt"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
)

const (
	broker     = "system:serviceaccount:keyferry-system:keyferry-broker"
	controller = "system:serviceaccount:keyferry-system:keyferry-controller"
)

func TestUnused(t *testing.T) {
	t.Parallel()
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"trust", "federation"}, Verbs: []string{"update"}},
		{APIGroups: []string{"keyferry.dev"}, Resources: []string{"targetclusters/status"}, Verbs: []string{"patch"}},
		{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
	}
	log := line(broker, "get", `"resource":"secrets","name":"access"`) +
		line(controller, "list", `"resource":"secrets"`) +
		line(broker, "update", `"resource":"configmaps","name":"trust"`) +
		line(broker, "patch", `"apiGroup":"keyferry.dev","resource":"targetclusters","name":"federation"`) +
		line(broker, "create", `"apiGroup":"authorization.k8s.io","resource":"subjectaccessreviews"`) +
		`{"verb":"get","requestURI":"/version","user":{"username":"` + broker + `"}}` + "\n"
	requests, err := Parse([]byte(log), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		broker + ": list secrets",
		broker + ": patch targetclusters/status.keyferry.dev",
		broker + ": update configmaps/federation",
	}
	if got := fmt.Sprint(Unused(Rights(broker, rules), requests)); got != fmt.Sprint(want) {
		t.Errorf("unused are %s, want %s", got, want)
	}
}

func TestDenied(t *testing.T) {
	t.Parallel()
	log := `{"verb":"get","requestURI":"/a","user":{"username":"` + broker + `"},"responseStatus":{"code":403},"annotations":{"authorization.k8s.io/decision":"forbid"}}
{"verb":"get","requestURI":"/admission","user":{"username":"` + broker + `"},"responseStatus":{"code":403},"annotations":{"authorization.k8s.io/decision":"allow"}}
{"verb":"get","requestURI":"/other","user":{"username":"system:serviceaccount:default:web"},"annotations":{"authorization.k8s.io/decision":"forbid"}}
`
	requests, err := Parse([]byte(log), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if got := Denied("system:serviceaccount:keyferry-system:", requests); len(got) != 1 || got[0].URI != "/a" {
		t.Errorf("denied are %+v", got)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	log := `{"requestReceivedTimestamp":"2026-01-01T00:00:00.000001Z","annotations":{"authentication.kubernetes.io/issued-credential-id":"JTI=1"}}
{"requestReceivedTimestamp":"2026-01-02T00:00:00.000001Z","annotations":{"authentication.kubernetes.io/issued-credential-id":"JTI=2"}}
`
	requests, err := Parse([]byte(log), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	if len(requests) != 1 || requests[0].IssuedCredential() != "JTI=2" {
		t.Errorf("got %+v, want the second one", requests)
	}
	if _, err := Parse([]byte("not JSON\n"), time.Time{}); err == nil || !strings.Contains(err.Error(), "not JSON") {
		t.Errorf("of a line that is none: %v", err)
	}
}

func line(user, verb, object string) string {
	return fmt.Sprintf(`{"verb":%q,"user":{"username":%q},"objectRef":{%s},"annotations":{"authorization.k8s.io/decision":"allow"}}`+"\n", verb, user, object)
}
