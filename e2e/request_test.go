package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// requests is the namespace of CredentialRequests: the one that the chart was told to keep them in.
const requests = "requests"

// request makes a CredentialRequest of this type, named for the tenant and the type, and waits for
// its Secret.
func (tn tenant) request(t *testing.T, form string) *corev1.Secret {
	t.Helper()
	name := tn.Target + "-" + form
	suite.management.mustApply(t, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: {{.Target}}, namespace: requests}
---
apiVersion: keyferry.dev/v1alpha1
kind: CredentialRequest
metadata: {name: {{.Name}}, namespace: requests}
spec:
  targetCluster: {namespace: fleet, name: {{.Target}}}
  serviceAccountName: {{.Target}}
  type: {{.Type}}
  secret: {name: {{.Name}}, labels: {environment: test}}
`, struct {
		tenant
		Name, Type string
	}{tn, strings.ToLower(name), form})
	made := tn.object()
	made.SetKind("CredentialRequest")
	made.SetNamespace(requests)
	made.SetName(strings.ToLower(name))
	cleanUp(t, suite.management, made)
	cleanUp(t, suite.management, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: tn.Target, Namespace: requests}})
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: strings.ToLower(name), Namespace: requests}}
	eventually(t, time.Minute, "Secret of "+name, func() error {
		return suite.management.Get(t.Context(), client.ObjectKeyFromObject(secret), secret)
	})
	plantIssued(secret)
	return secret
}

// TestSecretsAreRenewed: programs that read a kubeconfig, or a cluster as Argo CD does, work
// through renewals, each time with what the Secret holds then, and without one failed request.
func TestSecretsAreRenewed(t *testing.T) {
	t.Parallel()
	for form, read := range map[string]func(*corev1.Secret) (*rest.Config, error){
		"kubeconfig": func(s *corev1.Secret) (*rest.Config, error) {
			return clientcmd.RESTConfigFromKubeConfig(s.Data["kubeconfig"])
		},
		"argocd": asArgoCD,
	} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			tn := newTenant(t)
			tn.allow(t, requests, tn.Target)
			secret := tn.request(t, form)
			tokens := map[string]bool{}
			// Renewed about every 15 seconds.
			eventually(t, 3*time.Minute, "five renewals", func() error {
				if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); err != nil {
					return err
				}
				plantIssued(secret)
				cfg, err := read(secret)
				if err != nil {
					t.Fatal(err)
				}
				if err := listNamespaces(t.Context(), cfg); err != nil {
					t.Fatalf("with the Secret of version %s: %v", secret.ResourceVersion, err)
				}
				if tokens[cfg.BearerToken] = true; len(tokens) < 6 {
					return fmt.Errorf("%d renewals", len(tokens)-1)
				}
				return nil
			})

			made := &corev1.Secret{ObjectMeta: secret.ObjectMeta}
			if err := suite.management.Delete(t.Context(), made); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Minute, "the deleted Secret is there again", func() error {
				return suite.management.Get(t.Context(), client.ObjectKeyFromObject(made), made)
			})
			cfg, err := read(made)
			if err == nil {
				err = listNamespaces(t.Context(), cfg)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// listNamespaces acts on the target, whose address is one for Pods: this machine knows another.
func listNamespaces(ctx context.Context, cfg *rest.Config) error {
	here, err := url.Parse(suite.target.config.Host)
	if err != nil {
		return err
	}
	cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, here.Host)
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	_, err = clients.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	return err
}

// asArgoCD reads a cluster Secret by what Argo CD documents of it, and refuses what is not
// documented.
func asArgoCD(secret *corev1.Secret) (*rest.Config, error) {
	if secret.Labels["argocd.argoproj.io/secret-type"] != "cluster" || secret.Labels["environment"] != "test" || secret.Type != corev1.SecretTypeOpaque {
		return nil, fmt.Errorf("type %s, labels %v", secret.Type, secret.Labels)
	}
	if len(secret.Data) != 3 || len(secret.Data["name"]) == 0 {
		return nil, fmt.Errorf("%d keys, name %q", len(secret.Data), secret.Data["name"])
	}
	var config struct {
		BearerToken     string `json:"bearerToken"`
		TLSClientConfig struct {
			Insecure   bool   `json:"insecure"`
			ServerName string `json:"serverName"`
			CAData     []byte `json:"caData"`
		} `json:"tlsClientConfig"`
	}
	if err := json.Unmarshal(secret.Data["config"], &config); err != nil {
		return nil, errors.New("the config cannot be read")
	}
	return &rest.Config{
		Host:        string(secret.Data["server"]),
		BearerToken: config.BearerToken,
		TLSClientConfig: rest.TLSClientConfig{
			Insecure: config.TLSClientConfig.Insecure, ServerName: config.TLSClientConfig.ServerName, CAData: config.TLSClientConfig.CAData,
		},
	}, nil
}

// TestKubeconfigInPod: of two programs that read the Secret through KUBECONFIG, one never ends and
// works with the token that it began with, and one reads it again at each start. No request of
// either fails.
func TestKubeconfigInPod(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	tn.allow(t, requests, tn.Target)
	secret := tn.request(t, "kubeconfig")
	suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata: {name: {{.Name}}, namespace: requests}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
  - name: client
    image: {{.Image}}
    imagePullPolicy: IfNotPresent
    args: [-context, {{.Target}}]
    env: [{name: KUBECONFIG, value: /etc/target/kubeconfig}]
    volumeMounts: [{name: target, mountPath: /etc/target, readOnly: true}]
  - name: again
    image: {{.Image}}
    imagePullPolicy: IfNotPresent
    args: [-context, {{.Target}}, -for, 20s]
    env: [{name: KUBECONFIG, value: /etc/target/kubeconfig}]
    volumeMounts: [{name: target, mountPath: /etc/target, readOnly: true}]
  volumes:
  - name: target
    secret: {secretName: {{.Name}}}
`, struct{ Target, Name, Image string }{tn.Target, secret.Name, suite.clientImage})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: secret.Name, Namespace: requests}}
	cleanUp(t, suite.management, pod)

	// The kubelet brings a new Secret within about a minute, and waits longer before each start.
	var seen []report
	eventually(t, 6*time.Minute, "three starts with another token each", func() error {
		if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		for _, status := range pod.Status.ContainerStatuses {
			if ended := status.LastTerminationState.Terminated; ended != nil && ended.ExitCode != 0 {
				t.Fatalf("%s ended with exit code %d: its log says which requests failed", status.Name, ended.ExitCode)
			}
		}
		last, err := lastReport(t, pod, "again")
		if err != nil {
			return err
		}
		if seen = append(seen, last); distinctTokens(seen) < 3 {
			return fmt.Errorf("%d tokens", distinctTokens(seen))
		}
		return nil
	})
	if last := tn.works(t, requests, pod.Name, "client"); last.Failures != 0 {
		t.Errorf("%d of %d requests failed, the last with %s", last.Failures, last.Requests, last.LastError)
	}
}

// TestTokenFileInPod: by the annotation alone, an unmodified program works on the target with the
// Secret of a CredentialRequest, through renewals, and without a sidecar.
func TestTokenFileInPod(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	tn.allow(t, requests, tn.Target)
	secret := tn.request(t, "tokenFile")
	suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata:
  name: {{.Name}}
  namespace: requests
  annotations: {keyferry.dev/credential-request: {{.Name}}}
spec:
  serviceAccountName: {{.Target}}
  containers:
  - {name: client, image: {{.Image}}, imagePullPolicy: IfNotPresent}
`, struct{ Target, Name, Image string }{tn.Target, secret.Name, suite.clientImage})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: secret.Name, Namespace: requests}}
	cleanUp(t, suite.management, pod)
	if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
	if len(pod.Spec.InitContainers) != 0 || len(pod.Spec.Containers) != 1 {
		t.Errorf("the Pod has a sidecar: %+v", pod.Spec.InitContainers)
	}

	// The kubelet brings a new Secret within about a minute, and client-go reads the file again about
	// once a minute.
	var all []report
	eventually(t, 6*time.Minute, "three tokens that the client saw", func() (err error) {
		if all, err = reports(t.Context(), requests, secret.Name, "client"); err != nil {
			return err
		}
		if seen := distinctTokens(all); seen < 3 {
			return fmt.Errorf("%d tokens", seen)
		}
		return nil
	})
	if last := all[len(all)-1]; last.Failures != 0 || last.User != tn.User {
		t.Errorf("%d of %d requests failed, the last with %s; the target knows the Pod as %q", last.Failures, last.Requests, last.LastError, last.User)
	}
}

// TestRequestWithoutRight: nothing is issued, and the condition says what to grant.
func TestRequestWithoutRight(t *testing.T) {
	t.Parallel()
	tn := newTenant(t)
	suite.management.mustApply(t, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: {{.Target}}, namespace: requests}
---
apiVersion: keyferry.dev/v1alpha1
kind: CredentialRequest
metadata: {name: {{.Target}}, namespace: requests}
spec:
  targetCluster: {namespace: fleet, name: {{.Target}}}
  serviceAccountName: {{.Target}}
  type: kubeconfig
  secret: {name: {{.Target}}}
`, tn)
	made := tn.object()
	made.SetKind("CredentialRequest")
	made.SetNamespace(requests)
	cleanUp(t, suite.management, made)
	eventually(t, time.Minute, "the reason Forbidden", func() error {
		if err := suite.management.Get(t.Context(), client.ObjectKeyFromObject(made), made); err != nil {
			return err
		}
		status, err := json.Marshal(made.Object["status"])
		if err == nil && !strings.Contains(string(status), `"reason":"Forbidden"`) {
			err = fmt.Errorf("the status is %s", status)
		}
		return err
	})
	err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: requests, Name: tn.Target}, &corev1.Secret{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the Secret: %v", err)
	}
}

// TestRequestIsTakenBack: when a CredentialRequest names another Secret, the first one goes, and
// with the request's end go the other one, what revocable tokens are bound to in the target, and
// the tokens.
func TestRequestIsTakenBack(t *testing.T) {
	t.Parallel()
	tn := newStranger(t)
	tn.mayRevoke(t)
	tn.secret(t, fleet, map[string][]byte{"kubeconfig": accessKubeconfig(t, tn.Namespace)})
	tn.applySpec(t, "access: {type: Kubeconfig, kubeconfig: {name: "+tn.Target+"}}\nissue: "+strings.Replace(tn.tokenRequest(), "duration", "revocable: true, duration", 1)+"\n")
	tn.waitFor(t, "Ready", "True")
	tn.allow(t, requests, tn.Target)
	first := tn.request(t, "kubeconfig")
	request := tn.object()
	request.SetKind("CredentialRequest")
	request.SetNamespace(requests)
	request.SetName(first.Name)
	if err := suite.management.Patch(t.Context(), request, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"secret":{"name":"`+first.Name+`-second"}}}`))); err != nil {
		t.Fatal(err)
	}
	second := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: requests, Name: first.Name + "-second"}}
	eventually(t, time.Minute, "the other Secret is there", func() error {
		return suite.management.Get(t.Context(), client.ObjectKeyFromObject(second), second)
	})
	plantIssued(second)
	isGone(t, suite.management, first)
	cfg, err := clientcmd.RESTConfigFromKubeConfig(second.Data["kubeconfig"])
	if err != nil {
		t.Fatal(err)
	}
	if err := listNamespaces(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}

	if err := suite.management.Delete(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	isGone(t, suite.management, request)
	isGone(t, suite.management, second)
	eventually(t, time.Minute, "the token has ended, and nothing is left", func() error {
		if err := listNamespaces(t.Context(), cfg); !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("the target says %w", cmp.Or(err, errors.New("yes")))
		}
		var left corev1.SecretList
		if err := suite.target.List(t.Context(), &left, client.InNamespace(tn.Namespace)); err != nil || len(left.Items) > 0 {
			return fmt.Errorf("%d Secrets are left: %w", len(left.Items), cmp.Or(err, errors.New("those of tokens")))
		}
		return nil
	})
}

// mayRevoke lets keyferry-access bind tokens to Secrets.
func (tn tenant) mayRevoke(t *testing.T) {
	t.Helper()
	role := &rbacv1.Role{}
	if err := suite.target.Get(t.Context(), client.ObjectKey{Namespace: tn.Namespace, Name: "keyferry-access"}, role); err != nil {
		t.Fatal(err)
	}
	role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "create", "delete"}})
	if err := suite.target.Update(t.Context(), role); err != nil {
		t.Fatal(err)
	}
}

func isGone(t *testing.T, k *kube, object client.Object) {
	t.Helper()
	eventually(t, time.Minute, object.GetName()+" is gone", func() error {
		err := k.Get(t.Context(), client.ObjectKeyFromObject(object), object)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
}
