package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/e2e/release"
)

// TestSpiderAndTumblebug: tokens that a service of another make issues, handed on or as Keyferry's
// own way in.
func TestSpiderAndTumblebug(t *testing.T) {
	t.Parallel()
	access := map[string]string{
		"Spider":    "spider: {url: 'http://source.%s.svc', cluster: tenant-1, connection: cloud-1, credentials: {name: %s}}",
		"Tumblebug": "tumblebug: {url: 'http://source.%s.svc', namespace: ns-1, cluster: tenant-1, credentials: {name: %s}}",
	}
	for name, format := range access {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tn := newStranger(t)
			ns := suite.management.namespace(t, nil)
			tn.allow(t, ns, "default")
			account := "tenant"
			issue := "{type: Access}"
			if name == "Spider" { // it lets Keyferry in, which then issues tokens of its own
				account, issue = "keyferry-access", tn.tokenRequest()
			}
			tn.serveSource(t, ns, account)
			tn.secret(t, fleet, map[string][]byte{"username": []byte("keyferry"), "password": []byte(sourcePassword)})
			tn.applySpec(t, "endpoint: "+tn.endpoint()+"\naccess: {type: "+name+", "+fmt.Sprintf(format, ns, tn.Target)+"}\nissue: "+issue+"\n")
			tn.waitFor(t, "Ready", "True")
			tn.deploy(t, ns, "")
			pod := runningPod(t, ns)
			tn.works(t, ns, pod.Name, "client")
			renewed(t, pod, 3)
			if last := tn.works(t, ns, pod.Name, "client"); last.Failures != 0 {
				t.Errorf("%d of %d requests failed, the last with %s", last.Failures, last.Requests, last.LastError)
			}
			shows(t, tn, sourcePassword)
		})
	}
}

const sourcePassword = "planted-in-a-secret"

// serveSource runs a service source in a namespace, which issues tokens of a ServiceAccount of the
// target.
func (tn tenant) serveSource(t *testing.T, namespace, account string) {
	t.Helper()
	if account != "tenant" {
		suite.target.mustApply(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: source, namespace: {{.Namespace}}}
rules:
- {apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [keyferry-access], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: source, namespace: {{.Namespace}}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: source}
subjects: [{kind: ServiceAccount, name: keyferry-access, namespace: {{.Namespace}}}]
`, tn)
	}
	tn.secret(t, namespace, map[string][]byte{"kubeconfig": accessKubeconfig(t, tn.Namespace), "password": []byte(sourcePassword)})
	suite.management.mustApply(t, `
apiVersion: v1
kind: Service
metadata: {name: source, namespace: {{.NS}}}
spec: {selector: {app: source}, ports: [{port: 80, targetPort: 8080}]}
`, map[string]any{"NS": namespace})
	tn.runSource(t, namespace, account)
}

// runSource runs the Pod behind the service.
func (tn tenant) runSource(t *testing.T, namespace, account string) {
	t.Helper()
	suite.management.mustApply(t, `
apiVersion: v1
kind: Pod
metadata: {name: source, namespace: {{.NS}}, labels: {app: source}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: source
    image: {{.Image}}
    args: [source, --service-account={{.Account}}, --user=keyferry]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: kubeconfig, mountPath: /etc/source}]
  volumes: [{name: kubeconfig, secret: {secretName: {{.Secret}}}}]
`, map[string]any{
		"NS": namespace, "Image": suite.podtoolsImage, "Account": tn.Namespace + "/" + account, "Secret": tn.Target,
	})
	answers(t, namespace, "source", "source")
}

// shows fails if the TargetCluster, or an Event about it, holds a secret.
func shows(t *testing.T, tn tenant, secret string) {
	t.Helper()
	for _, args := range [][]string{{"get", "targetcluster", tn.Target, "-o", "yaml"}, {"get", "events", "-o", "yaml"}} {
		if out := suite.management.kubectl(t, append(args, "-n", fleet)...); strings.Contains(out, secret) {
			t.Errorf("kubectl %s shows the secret", strings.Join(args, " "))
		}
	}
}

// TestClusterProfile: a plugin that the community wrote runs in the Pod's sidecar, as the Pod, and
// reads a token from a Secret that the Pod's ServiceAccount may read and Keyferry may not. The Pod
// names a ClusterProfile, or a TargetCluster that points to one.
func TestClusterProfile(t *testing.T) {
	t.Parallel()
	installClusterProfiles(t)
	for name, annotation := range map[string]string{"annotation": "cluster-profile", "TargetCluster": "cluster"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tn := newStranger(t)
			ns := suite.management.namespace(t, nil)
			tn.secret(t, ns, map[string][]byte{"token": []byte(tn.token(t))})
			mayRead(t, ns, tn.Target, "default")
			tn.applyProfile(t, "secretreader")
			if annotation == "cluster" {
				tn.allow(t, ns, "default")
				tn.applySpec(t, "clusterProfile: {namespace: fleet, name: "+tn.Target+"}\naccess: {type: Exec, exec: {provider: secretreader, runIn: Pod}}\nissue: {type: Access}\n")
				tn.waitFor(t, "Resolved", "True")
			}
			pod := strings.NewReplacer("NS", ns, "ANNOTATION", annotation, "TARGET", tn.Target, "IMAGE", suite.clientImage).Replace(`
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: NS, annotations: {keyferry.dev/ANNOTATION: fleet/TARGET}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: client, image: IMAGE}
`)
			// The right to use the TargetCluster alone is not enough.
			if err := suite.management.apply(t.Context(), pod, nil); err == nil || !strings.Contains(err.Error(), "clusterprofiles") {
				t.Fatalf("without the right to use the ClusterProfile: %v", err)
			}
			tn.allowProfile(t, ns, "default")
			suite.management.mustApply(t, pod, nil)
			tn.works(t, ns, "client", "client")
			gets(t, pluginComes(t, ns, "client"))
			if out := suite.keyferry(t, 0, "check", "client", "-n", ns); !strings.Contains(out, tn.Target) {
				t.Errorf("keyferry check says\n%s", out)
			}
		})
	}
}

// pluginComes returns how the plugin got into a Pod: by an image volume if the cluster has them,
// else copied.
func pluginComes(t *testing.T, namespace, name string) string {
	t.Helper()
	pod := &corev1.Pod{}
	if err := suite.management.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil {
		t.Fatal(err)
	}
	byVolume := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Image != nil })
	copied := slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == "keyferry-plugin" })
	if byVolume == copied || byVolume && !suite.imageVolumes {
		t.Errorf("image volume %t, copied %t, in a cluster with image volumes: %t", byVolume, copied, suite.imageVolumes)
	}
	if copied {
		return "copied by an init container"
	}
	return "in an image volume"
}

// TestPluginInBroker: the same plugin runs in the broker, as Keyferry, for two targets at once, and
// neither is given what is the other's. If the cluster has no image volumes, the chart rejects the
// volume with the plugin.
func TestPluginInBroker(t *testing.T) {
	t.Parallel()
	if !suite.imageVolumes {
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, []byte(suite.pluginVolume()), 0o600); err != nil {
			t.Fatal(err)
		}
		err := release.Helm(t.Context(), "upgrade", release.Name, filepath.Join(release.Root(), "charts", "keyferry"), "--dry-run=server",
			"--kubeconfig", suite.management.kubeconfig, "--namespace", release.Namespace, "--values", file)
		if err == nil || !strings.Contains(err.Error(), `broker.extraVolumes: volume "plugins" is an image, which needs Kubernetes 1.35`) {
			t.Errorf("the chart with an image volume: %v", err)
		}
		gets(t, "in an image of Keyferry with the plugin, or another volume")
		return
	}
	gets(t, "in an image volume")
	installClusterProfiles(t)
	for _, name := range []string{"one", "other"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tn := newStranger(t)
			ns := suite.management.namespace(t, nil)
			tn.secret(t, suite.release, map[string][]byte{"token": []byte(tn.token(t))})
			mayRead(t, suite.release, tn.Target, "keyferry-broker", "keyferry-controller")
			tn.applyProfile(t, "secretreader-of-keyferry")
			tn.applySpec(t, "clusterProfile: {namespace: fleet, name: "+tn.Target+"}\naccess: {type: Exec, exec: {provider: secretreader-of-keyferry}}\nissue: {type: Access}\n")
			tn.waitFor(t, "Ready", "True")
			tn.allow(t, ns, "default")
			tn.allowProfile(t, ns, "default")
			tn.deploy(t, ns, "")
			pod := runningPod(t, ns)
			tn.works(t, ns, pod.Name, "client")
			renewed(t, pod, 3)
			if last := tn.works(t, ns, pod.Name, "client"); last.Failures != 0 {
				t.Errorf("%d of %d requests failed, the last with %s", last.Failures, last.Requests, last.LastError)
			}
		})
	}
}

// token is a token of the tenant's ServiceAccount.
func (tn tenant) token(t *testing.T) string {
	t.Helper()
	review, err := suite.target.clientset.CoreV1().ServiceAccounts(tn.Namespace).CreateToken(t.Context(), "tenant", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Token
}

// mayRead lets ServiceAccounts of a namespace read a Secret there.
func mayRead(t *testing.T, namespace, secret string, accounts ...string) {
	t.Helper()
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "read-" + secret}
	binding := &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name}}
	for _, account := range accounts {
		binding.Subjects = append(binding.Subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account})
	}
	role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{secret}, Verbs: []string{"get"}}}}
	for _, object := range []client.Object{role, binding} {
		if err := suite.management.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
		cleanUp(t, suite.management, object)
	}
}

// installClusterProfiles installs the CustomResourceDefinition that the community's module brings.
func installClusterProfiles(t *testing.T) {
	t.Helper()
	suite.management.applyFiles(t, filepath.Join(moduleDir(t, "sigs.k8s.io/cluster-inventory-api"), "config", "crd", "bases", "multicluster.x-k8s.io_clusterprofiles.yaml"))
	eventually(t, time.Minute, "ClusterProfiles are known", func() error {
		return suite.management.List(t.Context(), profiles())
	})
}

func profiles() *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion("multicluster.x-k8s.io/v1alpha1")
	list.SetKind("ClusterProfileList")
	return list
}

// applyProfile writes a ClusterProfile with the tenant's name and one access provider, as a cluster
// manager would.
func (tn tenant) applyProfile(t *testing.T, provider string) {
	t.Helper()
	profile := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{"displayName": tn.Target, "clusterManager": map[string]any{"name": "e2e"}},
	}}
	profile.SetAPIVersion("multicluster.x-k8s.io/v1alpha1")
	profile.SetKind("ClusterProfile")
	profile.SetNamespace(fleet)
	profile.SetName(tn.Target)
	profile.SetLabels(map[string]string{"x-k8s.io/cluster-manager": "e2e"})
	if err := suite.management.Create(t.Context(), profile); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, suite.management, profile)
	profile.Object["status"] = map[string]any{"accessProviders": []any{map[string]any{
		"name": provider,
		"cluster": map[string]any{
			"server":                     tn.Server,
			"certificate-authority-data": base64.StdEncoding.EncodeToString(suite.targetCA),
			"extensions": []any{map[string]any{
				"name": "client.authentication.k8s.io/exec", "extension": map[string]any{"clusterName": tn.Target},
			}},
		},
	}}}
	if err := suite.management.Status().Update(t.Context(), profile); err != nil {
		t.Fatal(err)
	}
}

// allowProfile lets a ServiceAccount of the management cluster use the ClusterProfile.
func (tn tenant) allowProfile(t *testing.T, namespace, serviceAccount string) {
	t.Helper()
	name := namespace + "-" + serviceAccount + "-profile"
	meta := metav1.ObjectMeta{Namespace: fleet, Name: name}
	for _, object := range []client.Object{
		&rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{"multicluster.x-k8s.io"}, Resources: []string{"clusterprofiles"}, ResourceNames: []string{tn.Target}, Verbs: []string{"use"},
		}}},
		&rbacv1.RoleBinding{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: serviceAccount}},
		},
	} {
		if err := suite.management.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
		cleanUp(t, suite.management, object)
	}
}

// TestSourceDown: a source that fails takes nothing away, and the Pod renews when it is back.
func TestSourceDown(t *testing.T) {
	t.Parallel()
	tn := newStranger(t)
	ns := suite.management.namespace(t, nil)
	tn.allow(t, ns, "default")
	tn.serveSource(t, ns, "tenant")
	tn.secret(t, fleet, map[string][]byte{"username": []byte("keyferry"), "password": []byte(sourcePassword)})
	tn.applySpec(t, "endpoint: "+tn.endpoint()+"\naccess: {type: Spider, spider: {url: 'http://source."+ns+".svc', cluster: c, connection: d, credentials: {name: "+tn.Target+"}}}\nissue: {type: Access}\n")
	tn.waitFor(t, "Ready", "True")
	tn.deploy(t, ns, "")
	pod := runningPod(t, ns)
	before := tn.works(t, ns, pod.Name, "client")

	suite.management.kubectl(t, "delete", "-n", ns, "pod/source")
	tn.waitFor(t, "Issuing", "False")
	eventually(t, 2*time.Minute, "requests go on for 40 s", func() error {
		if last := tn.works(t, ns, pod.Name, "client"); last.Time.Sub(before.Time) < 40*time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	tn.runSource(t, ns, "tenant")
	tn.waitFor(t, "Issuing", "True")
	renewed(t, pod, 2)
	if n, err := failuresSince(t.Context(), ns, pod.Name, before); err != nil || n != 0 {
		t.Errorf("%d requests failed (%v)", n, err)
	}
	notRestarted(t, pod)
}
