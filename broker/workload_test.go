package broker

import (
	"encoding/json"
	"net/http"
	"path"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/aws-iam-authenticator/pkg/token"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/api/v1alpha1"
)

// TestWorkloadIdentity checks that the broker exchanges a Pod's subject token at the cloud, and
// sends it to no other host.
func TestWorkloadIdentity(t *testing.T) {
	f := newFleet(t)
	another := f.createPod(t, "web-1")
	pod := f.token(t, v1alpha1.BrokerAudience, f.pod)
	for _, k := range clouds() {
		if k.audience == nil {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			f.target.Name = k.name + "-1"
			f.create(k, f.target.Name, v1alpha1.Issue{Type: v1alpha1.IssueAccess})
			audience := k.audience(f.target.Name)
			for subject, says := range map[string]string{
				"": `for the audience "` + audience + `", but the Pod sent no such token`,
				f.token(t, "https://elsewhere.example", f.pod): `for the audience "` + audience + `", but the Pod's token is for ["https://elsewhere.example"]`,
				f.token(t, audience, another):                  "must belong to the Pod that sends the request",
			} {
				if _, code, status := f.ask(t, pod, `{"subjectToken":"`+subject+`"}`); code != http.StatusForbidden || !strings.Contains(status.Message, says) {
					t.Errorf("code %d: %s; want 403 with %s", code, status.Message, says)
				}
			}
			if sent := f.sent[f.target.Name]; sent != "" {
				t.Error("one of these was sent to the cloud")
			}

			credential, code, status := f.ask(t, pod, f.request(k, f.target.Name))
			if code != http.StatusOK {
				t.Fatalf("code %d: %s", code, status.Message)
			}
			f.wantToken(t, credential.Status.Token)
			if f.sent[f.target.Name] != f.subject(audience) {
				t.Error("what was sent to the cloud is not the Pod's own token")
			}
		})
	}
	f.wantNoSecret("audit", f.audit.String())
	kept := f.stored() + f.audit.String() + f.log.String() + f.exposition()
	for audience, token := range f.subjects {
		if strings.Contains(kept, token[strings.LastIndex(token, "."):]) {
			t.Errorf("the Pod's token for %s is stored, or logged", audience)
		}
	}
}

// wantToken checks that a token is the cloud's result for the Pod's token: that of the
// authenticator of EKS clusters, or that of another cloud.
func (f *fleet) wantToken(t *testing.T, issued string) {
	t.Helper()
	if !strings.HasPrefix(issued, "k8s-aws-v1.") {
		if !strings.HasPrefix(issued, planted+"access-of-"+f.target.Name+"-") {
			t.Error("the token is another's")
		}
		return
	}
	identity, err := token.NewVerifier(f.target.Name, "aws", "eu-central-1").Verify(issued)
	if err != nil {
		t.Fatal(err)
	}
	if path.Base(identity.CanonicalARN) != f.target.Name || identity.SessionName != f.namespace+".web" {
		t.Errorf("the cluster takes it for %s in a session of %s", identity.CanonicalARN, identity.SessionName)
	}
}

// stored returns all objects of the namespace in which a token could be stored.
func (f *fleet) stored() string {
	var secrets corev1.SecretList
	must(f.t, f.List(f.t.Context(), &secrets, client.InNamespace(f.namespace)))
	var text strings.Builder
	for _, secret := range secrets.Items {
		for _, value := range secret.Data {
			text.Write(value)
		}
	}
	for _, list := range []client.ObjectList{&corev1.ConfigMapList{}, &corev1.EventList{}, &corev1.PodList{}, &v1alpha1.TargetClusterList{}} {
		must(f.t, f.List(f.t.Context(), list, client.InNamespace(f.namespace)))
		must(f.t, json.NewEncoder(&text).Encode(list))
	}
	return text.String()
}
