package status

import (
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
