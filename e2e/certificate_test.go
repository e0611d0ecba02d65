package e2e

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestClientCertificateIssue: cert-manager's own controllers sign client certificates for Pods with
// an authority that the target trusts. An unmodified program works with them, as who the
// TargetCluster says, through renewals, and what was asked for is tidied away.
func TestClientCertificateIssue(t *testing.T) {
	certificate, key, err := suite.pair.Target.ClientAuthority()
	if err != nil {
		t.Skipf("nothing can sign what the target trusts: %v", err)
	}
	t.Parallel()
	installCertManager(t)
	tn := newStranger(t)
	ns := suite.management.namespace(t, nil)
	tn.User = "pod:" + ns + ":default"
	suite.target.mustApply(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: by-certificate, namespace: {{.Namespace}}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: '{{.User}}'}]
`, tn)
	mayLook(t, tn.User)
	tn.secret(t, fleet, map[string][]byte{"tls.crt": certificate, "tls.key": key})
	suite.management.mustApply(t, `
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: {{.Target}}, namespace: fleet}
spec: {ca: {secretName: {{.Target}}}}
`, tn)
	tn.applySpec(t, "endpoint: "+tn.endpoint()+`
access: {type: None}
issue: {type: ClientCertificate, clientCertificate: {issuerRef: {name: `+tn.Target+`}, commonName: 'pod:${namespace}:${serviceAccount}', duration: 1h}}
`)
	tn.waitFor(t, "Ready", "True")
	tn.allow(t, ns, "default")
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)
	if first := tn.works(t, ns, pod.Name, "client"); first.Host != loopback {
		t.Errorf("the client's host is %q", first.Host)
	}
	renewed(t, pod, 3)
	if last := tn.works(t, ns, pod.Name, "client"); last.Failures != 0 {
		t.Errorf("%d of %d requests failed, the last with %s", last.Failures, last.Requests, last.LastError)
	}
	notRestarted(t, pod)
	tn.allow(t, requests, tn.Target)
	kubeconfig, err := clientcmd.Load(tn.request(t, "kubeconfig").Data["kubeconfig"])
	if err != nil {
		t.Fatal("the Secret of the CredentialRequest holds no kubeconfig")
	}
	for _, user := range kubeconfig.AuthInfos {
		if _, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData); err != nil {
			t.Errorf("the kubeconfig of the CredentialRequest: %v", err)
		}
	}
	eventually(t, time.Minute, "no CertificateRequests pile up", func() error {
		requests := &unstructured.UnstructuredList{}
		requests.SetAPIVersion("cert-manager.io/v1")
		requests.SetKind("CertificateRequestList")
		if err := suite.management.List(t.Context(), requests, client.InNamespace(fleet)); err != nil {
			return err
		}
		if n := len(requests.Items); n > 2 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}

// installCertManager runs cert-manager's controllers.
func installCertManager(t *testing.T) {
	t.Helper()
	suite.management.applyFiles(t, filepath.Join(moduleDir(t, "github.com/cert-manager/cert-manager"), "deploy", "crds", "*cert-manager.io_*.yaml"))
	suite.management.mustApply(t, `
apiVersion: v1
kind: Namespace
metadata: {name: cert-manager}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: cert-manager, namespace: cert-manager}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: e2e-cert-manager}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: cert-manager, namespace: cert-manager}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cert-manager, namespace: cert-manager}
spec:
  selector: {matchLabels: {app: cert-manager}}
  template:
    metadata: {labels: {app: cert-manager}}
    spec:
      serviceAccountName: cert-manager
      containers:
      - {name: controllers, image: {{.Image}}}
`, map[string]any{"Image": suite.certManagerImage})
}

// mayLook lets a user see the target's namespaces.
func mayLook(t *testing.T, user string) {
	t.Helper()
	binding := &unstructured.Unstructured{Object: map[string]any{
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "e2e-see-namespaces"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}},
	}}
	binding.SetAPIVersion("rbac.authorization.k8s.io/v1")
	binding.SetKind("ClusterRoleBinding")
	binding.SetGenerateName("e2e-look-")
	if err := suite.target.Create(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, suite.target, binding)
}
