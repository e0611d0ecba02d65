package status

import (
	"encoding/csv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestCSV: a line for each user, one for a target without users, and no formula.
func TestCSV(t *testing.T) {
	ends := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	report := Report{Targets: []Target{
		{Kind: KindTargetCluster, Namespace: "fleet", Name: "a", Ready: metav1.ConditionFalse, Reason: "Unreachable", Message: `=HYPERLINK("http://a")`, Users: []User{
			{Kind: KindPod, Namespace: "app", Name: "web", ServiceAccount: "default", Workload: "Deployment web", State: StateReady},
			{Kind: KindCredentialRequest, Namespace: "app", Name: "r", ServiceAccount: "robot", State: StateReady, Ends: &ends},
		}},
		{Kind: KindTargetCluster, Namespace: "fleet", Name: "b", Ready: metav1.ConditionTrue},
	}}
	var got strings.Builder
	if err := report.WriteCSV(&got); err != nil {
		t.Fatal(err)
	}
	const want = `targetKind,targetNamespace,target,ready,reason,message,endpoint,delivery,serverVersion,userKind,userNamespace,user,serviceAccount,workload,credentialRequest,state,stateMessage,ends,renews
TargetCluster,fleet,a,False,Unreachable,"'=HYPERLINK(""http://a"")",,,,Pod,app,web,default,Deployment web,,Ready,,,
TargetCluster,fleet,a,False,Unreachable,"'=HYPERLINK(""http://a"")",,,,CredentialRequest,app,r,robot,,,Ready,,2026-01-02T03:04:05Z,
TargetCluster,fleet,b,True,,,,,,,,,,,,,,,
`
	if got.String() != want {
		t.Errorf("got\n%s", got.String())
	}
}

// TestCSVIsText: no text of a user is a formula, a line of its own, or an escape sequence of a
// terminal.
func TestCSVIsText(t *testing.T) {
	for _, hostile := range []string{
		"=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "＋1", "－1", "＠1", "\u00a0=1", "\u202e=1", "\x1b[31m=1", "a\r\n=1,=2", `","=1`,
	} {
		report := Report{Targets: []Target{{Kind: KindTargetCluster, Namespace: "fleet", Name: "a", Message: hostile}}}
		var out strings.Builder
		if err := report.WriteCSV(&out); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(strings.NewReader(out.String())).ReadAll()
		if err != nil || len(rows) != 2 || strings.Count(out.String(), "\n") != 2 {
			t.Errorf("%q: %v, %q", hostile, err, out.String())
			continue
		}
		got := rows[1][5]
		if strings.ContainsAny(strings.TrimSpace(got)[:1], "=+-@") || strings.ContainsAny(got, "\t\r\n\x1b\u202e") || strings.HasPrefix(got, "＝") {
			t.Errorf("%q is written as %q", hostile, got)
		}
	}
}
