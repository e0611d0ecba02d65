package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// rulesOf returns the rules of the rendered roles that are bound to a component, by the place where
// they apply: a namespace, or "" for everywhere.
func rulesOf(t *testing.T, o objects, component string) map[string][]rbacv1.PolicyRule {
	t.Helper()
	found := map[string][]rbacv1.PolicyRule{}
	subject := func(subjects []rbacv1.Subject) bool {
		return slices.Contains(subjects, rbacv1.Subject{Kind: "ServiceAccount", Name: "keyferry-" + component, Namespace: namespace})
	}
	for name, object := range o {
		switch object.GetKind() {
		case "RoleBinding":
			if binding := get[rbacv1.RoleBinding](t, o, name); subject(binding.Subjects) {
				role := get[rbacv1.Role](t, o, strings.Replace(name, "RoleBinding/", "Role/", 1))
				found[binding.Namespace] = append(found[binding.Namespace], role.Rules...)
			}
		case "ClusterRoleBinding":
			if binding := get[rbacv1.ClusterRoleBinding](t, o, name); subject(binding.Subjects) {
				found[""] = append(found[""], get[rbacv1.ClusterRole](t, o, "ClusterRole/"+binding.RoleRef.Name).Rules...)
			}
		}
	}
	return found
}

// covers reports whether a list of verbs, groups or resources of a rule covers one of them.
func covers(list []string, one string) bool {
	return slices.Contains(list, one) || slices.Contains(list, "*")
}

// may returns the places ("" for everywhere) in which a component may do verb with all objects of a
// resource.
func may(t *testing.T, o objects, component, verb, resource string) []string {
	t.Helper()
	var places []string
	for place, rules := range rulesOf(t, o, component) {
		if slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
			return len(r.ResourceNames) == 0 && covers(r.Verbs, verb) && covers(r.Resources, resource)
		}) {
			places = append(places, place)
		}
	}
	slices.Sort(places)
	return places
}

// TestApprovals: a component that requests a certificate cannot approve it.
func TestApprovals(t *testing.T) {
	t.Parallel()
	o := mustRender(t, "secretAccess: {namespaces: [fleet], namespaceLabels: {tier: a}}\ncredentialRequests: {namespaces: [app]}")
	requests := 0
	for _, component := range components {
		for place, rules := range rulesOf(t, o, component) {
			for _, r := range rules {
				for _, resource := range []string{"signers", "certificaterequests/approval", "certificaterequests/status"} {
					if covers(r.Resources, resource) {
						t.Errorf("%s may %s %s in %q", component, r.Verbs, resource, place)
					}
				}
				if covers(r.Resources, "certificaterequests") {
					requests++
					if covers(r.Verbs, "update") || covers(r.Verbs, "patch") {
						t.Errorf("%s may %s certificaterequests in %q", component, r.Verbs, place)
					}
				}
			}
		}
	}
	if requests == 0 {
		t.Error("no component may request a certificate")
	}
}

// TestAdmissionConfiguration: no component may change an admission policy or its binding. The
// controller may change its own webhook configurations only, and a policy limits the changes. The
// webhook may only read.
func TestAdmissionConfiguration(t *testing.T) {
	t.Parallel()
	o := mustRender(t, "secretAccess: {namespaces: [fleet], namespaceLabels: {tier: a}}\ncredentialRequests: {namespaces: [app]}")
	groups := []string{"admissionregistration.k8s.io"}
	want := map[string][]rbacv1.PolicyRule{
		"controller": {{
			APIGroups: groups, Verbs: []string{"list", "watch", "patch"},
			Resources:     []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"},
			ResourceNames: []string{"keyferry-webhook"},
		}},
		"webhook": {{APIGroups: groups, Verbs: []string{"list", "watch"}, Resources: []string{"mutatingwebhookconfigurations"}}},
	}
	for _, component := range components {
		rules := slices.Concat(slices.Collect(maps.Values(rulesOf(t, o, component)))...)
		rules = slices.DeleteFunc(rules, func(r rbacv1.PolicyRule) bool { return !covers(r.APIGroups, groups[0]) })
		if !equality.Semantic.DeepEqual(rules, want[component]) {
			t.Errorf("%s may %v, want %v", component, rules, want[component])
		}
	}
}

func TestSecretAccess(t *testing.T) {
	t.Parallel()
	o := mustRender(t, "secretAccess: {namespaces: [fleet]}\ncredentialRequests: {namespaces: [app]}")
	for _, test := range []struct {
		component, verb, resource string
		want                      []string
	}{
		{"broker", "get", "secrets", []string{"fleet"}}, // not the key of Keyferry's CA
		{"broker", "list", "secrets", nil},
		{"controller", "get", "secrets", []string{"app", "fleet"}},
		{"controller", "list", "secrets", []string{"app"}},
		{"controller", "update", "secrets", []string{"app"}},
		{"controller", "create", "secrets", []string{"app", namespace}}, // its own CA and certificates
		{"webhook", "get", "secrets", nil},
		{"webhook", "list", "secrets", nil},
		// A certificate of Keyferry's own namespace could be the webhook's.
		{"broker", "create", "certificaterequests", []string{"fleet"}},
		{"controller", "create", "certificaterequests", []string{"fleet"}},
		{"webhook", "create", "certificaterequests", nil},
	} {
		if got := may(t, o, test.component, test.verb, test.resource); !slices.Equal(got, test.want) {
			t.Errorf("%s may %s %s in %q, want %q", test.component, test.verb, test.resource, got, test.want)
		}
	}
}

// TestSecretAccessByLabel: nobody has access through the chart; the controller may grant it.
func TestSecretAccessByLabel(t *testing.T) {
	t.Parallel()
	o := mustRender(t, "secretAccess: {namespaceLabels: {example.com/fleet: yes-please, tier: a}}")
	for _, component := range components {
		if got := may(t, o, component, "get", "secrets"); len(got) > 0 {
			t.Errorf("%s may get Secrets in %q", component, got)
		}
		if got := may(t, o, component, "create", "rolebindings"); (len(got) > 0) != (component == "controller") {
			t.Errorf("%s may create RoleBindings in %q", component, got)
		}
		for _, verb := range []string{"update", "patch", "escalate", "bind"} {
			for _, resource := range []string{"rolebindings", "clusterrolebindings", "roles", "clusterroles"} {
				if got := may(t, o, component, verb, resource); len(got) > 0 {
					t.Errorf("%s may %s %s in %q", component, verb, resource, got)
				}
			}
		}
	}
	args := deployment(t, o, "controller").Spec.Template.Spec.Containers[0].Args
	for _, want := range []string{
		"--secret-access-labels=example.com/fleet=yes-please,tier=a",
		"--secret-access-service-accounts=keyferry-broker,keyferry-controller",
	} {
		if !slices.Contains(args, want) {
			t.Errorf("no %s in %q", want, args)
		}
	}
	for name := range mustRender(t, "") {
		if strings.Contains(name, "keyferry-secret-access") {
			t.Errorf("%s is rendered without labels", name)
		}
	}
}

// TestAggregation: of what is Keyferry's, edit and admin contain no more than view. A user who
// writes a TargetCluster uses the Secrets of its namespace, and a user who writes a
// CredentialRequest acts as any ServiceAccount there.
func TestAggregation(t *testing.T) {
	t.Parallel()
	const aggregate = "rbac.authorization.k8s.io/aggregate-to-"
	o := mustRender(t, "")
	viewed := 0
	for name, object := range o {
		labels := object.GetLabels()
		if labels[aggregate+"edit"] != "" || labels[aggregate+"admin"] != "" {
			t.Errorf("%s is aggregated into edit or admin", name)
		}
		if labels[aggregate+"view"] == "" {
			continue
		}
		viewed++
		for _, rule := range get[rbacv1.ClusterRole](t, o, name).Rules {
			if slices.ContainsFunc(rule.Verbs, func(verb string) bool { return !slices.Contains([]string{"get", "list", "watch"}, verb) }) {
				t.Errorf("%s, which is aggregated into view, allows %q", name, rule.Verbs)
			}
		}
	}
	if viewed != 3 {
		t.Errorf("%d roles are aggregated into view, want those for TargetClusters, CredentialRequests and locks", viewed)
	}
}

// TestCertificates: who makes the certificates, and that each finds them.
func TestCertificates(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, values  string
		certificates  int      // of cert-manager
		secrets       []string // of webhook, broker and controller; the builtin CA's own is in the controller's memory
		trust         string   // the Secret that the controller has the CA from
		injected      bool     // by cert-manager's CA injector
		createSecrets bool
	}{
		{name: "builtin", secrets: []string{"keyferry-webhook-tls", "keyferry-broker-tls", ""}, createSecrets: true},
		{
			name: "cert-manager", values: "certificates: {mode: cert-manager}", certificates: 4,
			secrets: []string{"keyferry-webhook-tls", "keyferry-broker-tls", "keyferry-controller-tls"}, trust: "keyferry-broker-tls", injected: true,
		},
		{
			name: "issuer", values: "certificates: {mode: cert-manager, certManager: {issuerRef: {name: ca, kind: ClusterIssuer}}}", certificates: 3,
			secrets: []string{"keyferry-webhook-tls", "keyferry-broker-tls", "keyferry-controller-tls"}, trust: "keyferry-broker-tls", injected: true,
		},
		{
			name: "provided", values: "certificates: {mode: provided, provided: {webhookSecret: w, brokerSecret: b, controllerSecret: k}}",
			secrets: []string{"w", "b", "k"}, trust: "b",
		},
		{
			name: "provided CA", values: "certificates: {mode: provided, provided: {webhookSecret: w, brokerSecret: b, controllerSecret: k, caSecret: c}}",
			secrets: []string{"w", "b", "k"}, trust: "c",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := mustRender(t, test.values)
			certificates := 0
			for _, object := range o {
				if object.GetKind() == "Certificate" {
					certificates++
				}
			}
			if certificates != test.certificates {
				t.Errorf("%d Certificates, want %d", certificates, test.certificates)
			}
			for i, component := range []string{"webhook", "broker", "controller"} {
				pod := deployment(t, o, component).Spec.Template.Spec
				if got := volumeSecret(pod, "tls"); got != test.secrets[i] {
					t.Errorf("%s serves with %q, want %q", component, got, test.secrets[i])
				}
				if flag := slices.Contains(pod.Containers[0].Args, "--cert-dir=/etc/keyferry/tls"); flag != (test.secrets[i] != "") {
					t.Errorf("%s: arguments %q", component, pod.Containers[0].Args)
				}
			}
			if got := volumeSecret(deployment(t, o, "controller").Spec.Template.Spec, "trust"); got != test.trust {
				t.Errorf("the controller has the CA from %q, want %q", got, test.trust)
			}
			for _, kind := range []string{"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"} {
				from := o[kind+"/keyferry-webhook"].GetAnnotations()["cert-manager.io/inject-ca-from"]
				if injected := from == namespace+"/keyferry-webhook"; injected != test.injected {
					t.Errorf("%s: CA injected from %q", kind, from)
				}
			}
			if got := len(may(t, o, "controller", "create", "secrets")) > 0; got != test.createSecrets {
				t.Errorf("controller may create Secrets: %t", got)
			}
		})
	}
}

func volumeSecret(pod corev1.PodSpec, volume string) string {
	for _, v := range pod.Volumes {
		if v.Name == volume && v.Secret != nil {
			return v.Secret.SecretName
		}
	}
	return ""
}

func TestProviderFile(t *testing.T) {
	t.Parallel()
	o := mustRender(t, "providerFile: {providers: [{name: a, execConfig: {apiVersion: client.authentication.k8s.io/v1, command: /a}}]}")
	file := get[corev1.ConfigMap](t, o, "ConfigMap/keyferry-providers").Data["providers.json"]
	var content struct{ Providers []struct{ Name string } }
	if err := json.Unmarshal([]byte(file), &content); err != nil || len(content.Providers) != 1 || content.Providers[0].Name != "a" {
		t.Errorf("%v in %s", err, file)
	}
	for _, component := range components {
		container := deployment(t, o, component).Spec.Template.Spec.Containers[0]
		mounted := slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/etc/keyferry/providers" })
		if !mounted || !slices.Contains(container.Args, "--provider-file=/etc/keyferry/providers/providers.json") {
			t.Errorf("%s: arguments %v, mounts %v", component, container.Args, container.VolumeMounts)
		}
	}
	if _, ok := mustRender(t, "")["ConfigMap/keyferry-providers"]; ok {
		t.Error("there is a provider file without providers")
	}
}

// TestGuard: it is about all Pods, whatever the values say, and outlives the release: annotated
// Pods would start with the local cluster's credentials.
func TestGuard(t *testing.T) {
	t.Parallel()
	for name, values := range ciValues(t) {
		o := mustRender(t, values)
		policy := get[admissionregistrationv1.ValidatingAdmissionPolicy](t, o, "ValidatingAdmissionPolicy/keyferry-guard")
		all, constraints := &metav1.LabelSelector{}, policy.Spec.MatchConstraints
		if *policy.Spec.FailurePolicy != admissionregistrationv1.Fail || !equality.Semantic.DeepEqual(constraints.NamespaceSelector, all) || !equality.Semantic.DeepEqual(constraints.ObjectSelector, all) {
			t.Errorf("%s: the policy leaves something out: %s", name, mustJSON(t, policy.Spec))
		}
		binding := get[admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, o, "ValidatingAdmissionPolicyBinding/keyferry-guard")
		if deny := []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}; binding.Spec.MatchResources != nil || !slices.Equal(binding.Spec.ValidationActions, deny) {
			t.Errorf("%s: the binding leaves something out: %s", name, mustJSON(t, binding.Spec))
		}
		for _, meta := range []metav1.ObjectMeta{policy.ObjectMeta, binding.ObjectMeta} {
			if meta.Annotations["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s: helm uninstall removes %s", name, meta.Name)
			}
		}
	}
}

// TestCRDs: an upgrade of the release upgrades them, so they are objects of it, and the same as in
// config/crd; they outlive it.
func TestCRDs(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(filepath.Join(chartDir, "crds")); err == nil {
		t.Error("Helm never upgrades what is in the folder crds")
	}
	for _, test := range []struct {
		values    string
		installed bool
		policy    string
	}{
		{"", true, "keep"},
		{"crds: {keep: false}", true, ""},
		{"crds: {install: false}", false, ""},
	} {
		o := mustRender(t, test.values)
		files, err := filepath.Glob("../../config/crd/keyferry.dev_*.yaml")
		if err != nil || len(files) == 0 {
			t.Fatalf("no CRDs: %v", err)
		}
		for _, file := range files {
			var want apiextensionsv1.CustomResourceDefinition
			content, err := os.ReadFile(filepath.Clean(file))
			if err != nil {
				t.Fatal(err)
			}
			if err := yaml.UnmarshalStrict(content, &want); err != nil {
				t.Fatal(err)
			}
			object, ok := o["CustomResourceDefinition/"+want.Name]
			if ok != test.installed {
				t.Errorf("with %q, %s is rendered: %t", test.values, want.Name, ok)
			}
			if !ok {
				continue
			}
			got := get[apiextensionsv1.CustomResourceDefinition](t, o, "CustomResourceDefinition/"+want.Name)
			if a, b := mustJSON(t, got.Spec), mustJSON(t, want.Spec); !bytes.Equal(a, b) {
				t.Errorf("%s is another one than in config/crd", want.Name)
			}
			if policy := object.GetAnnotations()["helm.sh/resource-policy"]; policy != test.policy {
				t.Errorf("with %q, the policy of %s is %q, want %q", test.values, want.Name, policy, test.policy)
			}
		}
	}
}

func mustJSON(t *testing.T, value any) []byte {
	t.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
