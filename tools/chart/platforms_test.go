package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// webhookPort returns the port that the API server's requests get to, by the Service, the
// container's port and the program's argument, which must be one.
func webhookPort(t *testing.T, o objects) int32 {
	t.Helper()
	service := get[corev1.Service](t, o, "Service/keyferry-webhook").Spec.Ports[0]
	container := deployment(t, o, "webhook").Spec.Template.Spec.Containers[0]
	for _, port := range container.Ports {
		if port.Name != service.TargetPort.StrVal {
			continue
		}
		if service.Port != 443 || !slices.Contains(container.Args, fmt.Sprintf("--port=%d", port.ContainerPort)) {
			t.Errorf("port %d of the Service, port %d of the container, arguments %v", service.Port, port.ContainerPort, container.Args)
		}
		return port.ContainerPort
	}
	t.Fatalf("the Service's port is %v, the container's %v", service, container.Ports)
	return 0
}

// TestWebhookPort: a firewall of the platform may let the control plane connect to some ports only.
func TestWebhookPort(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		values string
		want   int32
		sysctl string
	}{
		{"", 9443, ""},
		{"webhook: {port: 10250}", 10250, ""},
		{"webhook: {port: 443}", 443, "443"},
		{"webhook: {hostNetwork: true}", 19443, ""},
		{"webhook: {hostNetwork: true, port: 10260}", 10260, ""},
	} {
		o := mustRender(t, test.values)
		if got := webhookPort(t, o); got != test.want {
			t.Errorf("with %q the port is %d, want %d", test.values, got, test.want)
		}
		sysctl := ""
		for _, s := range deployment(t, o, "webhook").Spec.Template.Spec.SecurityContext.Sysctls {
			sysctl = strings.TrimPrefix(s.Name, "net.ipv4.ip_unprivileged_port_start") + s.Value
		}
		if sysctl != test.sysctl {
			t.Errorf("with %q unprivileged ports start at %q, want %q", test.values, sysctl, test.sysctl)
		}
	}
}

// TestHostNetwork: the webhook's Pods share the ports of their nodes, with the programs of the
// platform, and with one another during an update.
func TestHostNetwork(t *testing.T) {
	t.Parallel()
	o := mustRender(t, "webhook: {hostNetwork: true, metricsPort: 19090}")
	d := deployment(t, o, "webhook")
	pod := d.Spec.Template.Spec
	if !pod.HostNetwork || pod.DNSPolicy != corev1.DNSClusterFirstWithHostNet {
		t.Errorf("hostNetwork %t, DNS %s", pod.HostNetwork, pod.DNSPolicy)
	}
	ports := map[string]int32{}
	for _, port := range pod.Containers[0].Ports {
		ports[port.Name] = port.ContainerPort
	}
	if want := map[string]int32{"https": 19443, "metrics": 19090, "health": 19081}; !maps.Equal(ports, want) {
		t.Errorf("ports %v, want %v", ports, want)
	}
	for _, arg := range []string{"--metrics-address=:19090", "--health-address=:19081"} {
		if !slices.Contains(pod.Containers[0].Args, arg) {
			t.Errorf("%s is not among %v", arg, pod.Containers[0].Args)
		}
	}
	if d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 1 {
		t.Error("an update cannot make room on the nodes")
	}
	for _, component := range []string{"broker", "controller"} {
		if pod := deployment(t, o, component).Spec.Template.Spec; pod.HostNetwork || pod.DNSPolicy != "" {
			t.Errorf("%s: hostNetwork %t, DNS %s", component, pod.HostNetwork, pod.DNSPolicy)
		}
	}
}

// webhooks are the two of the configurations.
func webhooks(t *testing.T, o objects) (admissionregistrationv1.MutatingWebhook, admissionregistrationv1.ValidatingWebhook) {
	t.Helper()
	return get[admissionregistrationv1.MutatingWebhookConfiguration](t, o, "MutatingWebhookConfiguration/keyferry-webhook").Webhooks[0],
		get[admissionregistrationv1.ValidatingWebhookConfiguration](t, o, "ValidatingWebhookConfiguration/keyferry-webhook").Webhooks[0]
}

// TestWorkloads: the kinds that the validating webhook checks are a value.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	for values, want := range map[string]map[string]string{
		"webhook: {workloads: []}": {},
		"webhook: {workloads: [replicationcontrollers, rayclusters.ray.io, deployments.apps, rayjobs.ray.io]}": {
			"": "replicationcontrollers", "apps": "deployments", "ray.io": "rayclusters rayjobs",
		},
		"": {
			"": "replicationcontrollers", "apps": "daemonsets deployments replicasets statefulsets", "batch": "cronjobs jobs",
			"argoproj.io": "analysistemplates clusteranalysistemplates clusterworkflowtemplates cronworkflows rollouts workflows " +
				"workflowtemplates",
			"jobset.x-k8s.io": "jobsets", "pkg.crossplane.io": "deploymentruntimeconfigs", "serving.knative.dev": "services",
			"sparkoperator.k8s.io": "scheduledsparkapplications sparkapplications",
		},
	} {
		_, webhook := webhooks(t, mustRender(t, values))
		got := map[string]string{}
		for _, rule := range webhook.Rules {
			got[strings.Join(rule.APIGroups, " ")] = strings.Join(rule.Resources, " ")
			if *rule.Scope != admissionregistrationv1.AllScopes {
				t.Errorf("with %q the webhook does not check objects without a namespace: %v", values, rule)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("with %q the kinds are %q, want %q", values, got, want)
		}
	}
	if _, err := render(chartDir, options{values: "webhook: {workloads: [Rollout.argoproj.io]}"}); err == nil {
		t.Error("a kind in place of a resource is accepted")
	}
}

// TestSystemNamespaces: platforms judge a webhook by its selectors alone; what is in
// matchConditions they do not see. The labels are those that AKS, GKE and Gardener put on their
// namespaces.
func TestSystemNamespaces(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		values    string
		namespace labels.Set
		selected  bool
	}{
		"an application's":      {"", labels.Set{"kubernetes.io/metadata.name": "shop"}, true},
		"kube-system, Gardener": {"", labels.Set{"kubernetes.io/metadata.name": "kube-system", "gardener.cloud/purpose": "kube-system", "shoot.gardener.cloud/no-cleanup": "true"}, false},
		"kube-system, AKS":      {"", labels.Set{"kubernetes.io/metadata.name": "kube-system", "kubernetes.azure.com/managedby": "aks"}, false},
		"kube-node-lease":       {"", labels.Set{"kubernetes.io/metadata.name": "kube-node-lease"}, false},
		"Keyferry's":            {"webhook: {excludedNamespaces: []}", labels.Set{"kubernetes.io/metadata.name": "keyferry-system"}, false},
		"kube-system, included": {"webhook: {excludedNamespaces: []}", labels.Set{"kubernetes.io/metadata.name": "kube-system"}, true},
		"of another team":       {"webhook: {namespaceSelector: {matchLabels: {team: a}}}", labels.Set{"team": "b"}, false},
		"of the team":           {"webhook: {namespaceSelector: {matchLabels: {team: a}}}", labels.Set{"team": "a"}, true},
		"left out by a label":   {"webhook: {namespaceSelector: {matchExpressions: [{key: control-plane, operator: DoesNotExist}]}}", labels.Set{"control-plane": "true"}, false},
		"excluded, selected":    {"webhook: {namespaceSelector: {matchLabels: {team: a}}}", labels.Set{"team": "a", "kubernetes.io/metadata.name": "kube-public"}, false},
	} {
		mutating, validating := webhooks(t, mustRender(t, test.values))
		for _, selector := range []*metav1.LabelSelector{mutating.NamespaceSelector, validating.NamespaceSelector} {
			parsed, err := metav1.LabelSelectorAsSelector(selector)
			if err != nil {
				t.Fatal(err)
			}
			if got := parsed.Matches(test.namespace); got != test.selected {
				t.Errorf("%s: selected %t, want %t", name, got, test.selected)
			}
		}
	}
}

// TestConfigurationsOfWebhooks: AKS changes the selectors of webhook configurations without the
// annotation, and Helm then refuses to apply its own.
func TestConfigurationsOfWebhooks(t *testing.T) {
	t.Parallel()
	for name, values := range ciValues(t) {
		o := mustRender(t, values)
		for _, kind := range []string{"Mutating", "Validating"} {
			if got := o[kind+"WebhookConfiguration/keyferry-webhook"].GetAnnotations()["admissions.enforcer/disabled"]; got != "true" {
				t.Errorf("%s: %s: AKS changes the selectors: %q", name, kind, got)
			}
		}
	}
	o := mustRender(t, `
certificates: {mode: cert-manager}
webhook:
  configurationAnnotations: {admissions.enforcer/disabled: "false", example.com/a: b}
  objectSelector: {matchLabels: {inject: "true"}}
`)
	want := map[string]string{"admissions.enforcer/disabled": "false", "example.com/a": "b", "cert-manager.io/inject-ca-from": "keyferry-system/keyferry-webhook"}
	if got := o["MutatingWebhookConfiguration/keyferry-webhook"].GetAnnotations(); !maps.Equal(got, want) {
		t.Errorf("annotations %v, want %v", got, want)
	}
	mutating, validating := webhooks(t, o)
	if mutating.ObjectSelector.MatchLabels["inject"] != "true" || validating.ObjectSelector != nil {
		t.Errorf("object selectors %v and %v, want one for Pods", mutating.ObjectSelector, validating.ObjectSelector)
	}
}

func TestServiceAccounts(t *testing.T) {
	t.Parallel()
	for _, component := range components {
		o := mustRender(t, "secretAccess: {namespaces: [fleet]}\ncredentialRequests: {namespaces: [app]}\nambientIdentity: {serviceAccountAnnotations: {example.com/role: ambient}}\n"+
			component+": {serviceAccount: {name: given, annotations: {example.com/role: own}, labels: {example.com/a: b}}}")
		account, ok := o["ServiceAccount/given"]
		if !ok {
			t.Fatalf("%s: there is no ServiceAccount given", component)
		}
		if account.GetAnnotations()["example.com/role"] != "own" || account.GetLabels()["example.com/a"] != "b" {
			t.Errorf("%s: annotations %v, labels %v", component, account.GetAnnotations(), account.GetLabels())
		}
		if _, ok := o["ServiceAccount/keyferry-"+component]; ok {
			t.Errorf("%s has two ServiceAccounts", component)
		}
		if got := deployment(t, o, component).Spec.Template.Spec.ServiceAccountName; got != "given" {
			t.Errorf("%s runs as %s", component, got)
		}
		bound := 0
		for name, object := range o {
			if !strings.HasSuffix(object.GetKind(), "RoleBinding") {
				continue
			}
			for _, subject := range get[rbacv1.RoleBinding](t, objects{name: object}, name).Subjects {
				if subject.Name == "keyferry-"+component {
					t.Errorf("%s binds %s, which does not exist", name, subject.Name)
				}
				if subject.Name == "given" {
					bound++
				}
			}
		}
		if bound == 0 {
			t.Errorf("%s has no rights", component)
		}
		limits := 0
		for name := range o {
			if !strings.HasPrefix(name, "ValidatingAdmissionPolicy/keyferry-"+component) {
				continue
			}
			limits++
			policy := get[admissionregistrationv1.ValidatingAdmissionPolicy](t, o, name)
			if expression := policy.Spec.MatchConditions[0].Expression; !strings.Contains(expression, "'system:serviceaccount:keyferry-system:given'") {
				t.Errorf("%s is for another account: %s", name, expression)
			}
		}
		if want := map[string]int{"broker": 1, "controller": 4}[component]; limits != want {
			t.Errorf("%d policies limit %s, want %d", limits, component, want)
		}
		o = mustRender(t, component+": {serviceAccount: {create: false, name: existing}}")
		if _, ok := o["ServiceAccount/existing"]; ok || deployment(t, o, component).Spec.Template.Spec.ServiceAccountName != "existing" {
			t.Errorf("%s: an account is created that exists, or not used", component)
		}
	}
}

func TestServicesAndDNS(t *testing.T) {
	t.Parallel()
	o := mustRender(t, `
service: {annotations: {example.com/a: b}, ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4]}
dnsPolicy: None
dnsConfig: {nameservers: [192.0.2.53]}
controller: {dnsPolicy: Default}
`)
	for _, component := range []string{"webhook", "broker"} {
		service := get[corev1.Service](t, o, "Service/keyferry-"+component)
		if service.Annotations["example.com/a"] != "b" || *service.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack ||
			!slices.Equal(service.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}) {
			t.Errorf("Service of %s: %v, %v", component, service.Annotations, service.Spec)
		}
	}
	for component, want := range map[string]corev1.DNSPolicy{"webhook": corev1.DNSNone, "broker": corev1.DNSNone, "controller": corev1.DNSDefault} {
		pod := deployment(t, o, component).Spec.Template.Spec
		if pod.DNSPolicy != want || !slices.Equal(pod.DNSConfig.Nameservers, []string{"192.0.2.53"}) {
			t.Errorf("DNS of %s: %s, %v", component, pod.DNSPolicy, pod.DNSConfig)
		}
	}
	for _, component := range components {
		pod := deployment(t, mustRender(t, ""), component).Spec.Template.Spec
		if want := map[string]string{corev1.LabelOSStable: "linux"}; !maps.Equal(pod.NodeSelector, want) || pod.DNSConfig != nil {
			t.Errorf("%s: node selector %v, DNS %v", component, pod.NodeSelector, pod.DNSConfig)
		}
	}
}

// TestValuesThatCannotWork: each with a sentence, at `helm template`.
func TestValuesThatCannotWork(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ values, want string }{
		{"webhook: {extraArgs: [--port=10250]}", "webhook.extraArgs: --port is set by the chart: use the value webhook.port"},
		{"webhook: {extraArgs: [--health-address=:8082]}", "webhook.extraArgs: --health-address is set by the chart: use the value webhook.healthPort"},
		{"broker: {extraArgs: [--listen-address=:443]}", "broker.extraArgs: --listen-address is set by the chart: remove it, since the chart's other objects depend on it"},
		{"controller: {extraArgs: [--namespace=fleet]}", "controller.extraArgs: --namespace is set by the chart: remove it"},
		{"webhook: {hostNetwork: true, port: 10250}", "webhook.port is 10250, a port of the kubelet or of kube-proxy, and webhook.hostNetwork is true: use another port"},
		{"webhook: {hostNetwork: true, metricsPort: 10249}", "webhook.metricsPort is 10249, a port of the kubelet or of kube-proxy"},
		{"webhook: {hostNetwork: true, port: 443}", "webhook.port is 443, which on the node's network needs rights that the webhook does not have: use a port from 1024 on, or set webhook.hostNetwork to false"},
		{"webhook: {healthPort: 80}", "webhook.healthPort is 80: use a port from 1024 on"},
		{"webhook: {port: 8080}", "are both 8080: use two ports"},
		{"webhook: {port: 70000}", "port"},
		{"webhook: {hostNetwork: true, dnsPolicy: ClusterFirst}", "webhook: dnsPolicy is ClusterFirst, which with hostNetwork does not resolve Services: leave it empty"},
		{"dnsPolicy: Default", "webhook: dnsPolicy is Default, which does not resolve the Service of the broker: leave it empty, or set webhook.dnsPolicy to ClusterFirst"},
		{"webhook: {dnsPolicy: Default}", "webhook: dnsPolicy is Default, which does not resolve the Service of the broker"},
		{"webhook: {hostNetwork: true, dnsPolicy: Default}", "webhook: dnsPolicy is Default, which with hostNetwork does not resolve Services: leave it empty"},
		{"dnsPolicy: None", "dnsPolicy is None, and dnsConfig.nameservers is empty: list the nameservers, or leave dnsPolicy empty"},
		{"service: {ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6]}", "service.ipFamilies has two families, and service.ipFamilyPolicy is SingleStack"},
		{"broker: {serviceAccount: {create: false}}", "broker.serviceAccount: name is required where create is false"},
		{"broker: {serviceAccount: {name: keyferry-webhook}}", "webhook.serviceAccount.name and broker.serviceAccount.name are both keyferry-webhook, so that each has the rights of both: use two ServiceAccounts"},
		{"env: [{name: POD_NAMESPACE, value: fleet}]", "env: POD_NAMESPACE is set by the chart: remove it"},
		{"webhook: {extraVolumes: [{name: tls, emptyDir: {}}]}", "webhook.extraVolumes: volume tls is in the chart, too: rename yours"},
		{"broker: {extraVolumeMounts: [{name: plugins, mountPath: /plugins}]}", "broker.extraVolumeMounts: there is no volume plugins: add it to broker.extraVolumes"},
		{"webhook: {extraVolumes: [{name: a, emptyDir: {}}], extraVolumeMounts: [{name: a, mountPath: /etc/keyferry/tls}]}", "webhook.extraVolumeMounts: volumes tls and a are both mounted at /etc/keyferry/tls: use two paths"},
		{"podAnnotations: {keyferry.dev/cluster: fleet/tenant-1}", "podAnnotations: keyferry.dev/cluster is for the Pods of applications, not for Keyferry's own: remove it"},
		{"broker: {podAnnotations: {Keyferry.dev/anything: a}}", "broker: podAnnotations: Keyferry.dev/anything is for the Pods of applications"},
		{"controller: {podLabels: {keyferry.dev/federated: 'true'}}", "controller: podLabels: keyferry.dev/federated is for the Pods of applications"},
		{"webhook: {deploymentAnnotations: {keyferry.dev/cluster: a}}", "webhook: deploymentAnnotations: keyferry.dev/cluster is for the Pods of applications, not for Keyferry's own: remove it"},
		{"commonLabels: {keyferry.dev/federated: 'true'}", "commonLabels: keyferry.dev/federated is for the Pods of applications"},
		{"commonLabels: {app.kubernetes.io/name: a}", "commonLabels: app.kubernetes.io/name is set by the chart: remove it"},
		{"broker: {podLabels: {app.kubernetes.io/component: proxy}}", "broker: podLabels: app.kubernetes.io/component is set by the chart: remove it"},
		{"podDisruptionBudget: {maxUnavailable: 0}", "podDisruptionBudget.maxUnavailable is 0, so that no node of these Pods can be drained: use 1 or more"},
		{"podDisruptionBudget: {maxUnavailable: 00%}", "podDisruptionBudget.maxUnavailable is 00%, so that"},
		{"podDisruptionBudget: {maxUnavailable: 101%}", "podDisruptionBudget"},
		{"webhook: {replicas: 0}", "webhook.replicas is 0, without which Keyferry does not work: use 1 or more"},
		{"controller: {replicas: 0}", "controller.replicas is 0"},
		{"nodeSelector: {kubernetes.io/os: windows}", "nodeSelector: kubernetes.io/os is windows, and Keyferry's images are for linux: use linux"},
		{"webhook: {workloads: [deployments.apps, pods]}", "webhook.workloads: pods: the webhook always checks Pods: remove it"},
		{"webhook: {workloads: [rollouts]}", "webhook.workloads: rollouts: the group is missing: use resource.group, such as rollouts.argoproj.io"},
		{"certificates: {certManager: {issuerRef: {name: ca}}}", "certificates.certManager.issuerRef has no effect, because certificates.mode is builtin: set the mode to cert-manager, or remove the value"},
		{"certificates: {mode: cert-manager, provided: {caSecret: ca}}", "certificates.provided.caSecret has no effect, because certificates.mode is cert-manager: set the mode to provided, or remove the value"},
		{"broker: {serviceAccount: {create: false, name: a, annotations: {role: b}}}", "broker.serviceAccount.annotations has no effect, because create is false: set it on the ServiceAccount a, and remove the value"},
		{"certificates: {mode: provided, provided: {brokerSecret: a, webhookSecret: b}}", "certificates.provided.controllerSecret is required where certificates.mode is provided"},
		{"certificates: {mode: provided, provided: {brokerSecret: a}}", "certificates.provided.webhookSecret is required where certificates.mode is provided"},
		{"webhook: {clientCertificates: {names: [a]}}", "webhook.clientCertificates.names: has no effect without a CA: set webhook.clientCertificates.configMap"},
		{"credentialRequests: {namespaces: [app, keyferry-system]}", "credentialRequests.namespaces must not list keyferry-system, Keyferry's own namespace"},
		{"refresher: {resources: {requests: {cpu: 1}}}", "refresher.resources: requests.cpu is 1, more than limits.cpu (500m): lower the request, or raise the limit"},
		{"refresher: {resources: {limits: {memory: 16Mi}}}", "refresher.resources: requests.memory is 32Mi, more than limits.memory (16Mi)"},
		{"webhook: {resources: {requests: {memory: 1G}, limits: {memory: 1000000k}}}\nbroker: {resources: {requests: {memory: 2000000001}, limits: {memory: 2G}}}",
			"broker.resources: requests.memory is 2.000000001e+09, more than limits.memory (2G)"},
		{"controller: {resources: {limits: {memory: 128MB}}}", "/controller/resources/limits/memory"},
		{"webhook: {resources: {limits: {cpu: -1}}}", "/webhook/resources/limits/cpu"},
		{"webhook: {extraArgs: ['--port 10250']}", `webhook.extraArgs: "--port 10250" is not a flag: use one element for each flag, such as --flag=value`},
		{"webhook: {extraArgs: ['--']}", `webhook.extraArgs: "--" is not a flag`},
		{"webhook: {extraArgs: [--kube-api-qps=1]}", "webhook.extraArgs: the webhook has no flag --kube-api-qps: use one of --allow-local-addresses, --log-level, --shutdown-delay-duration"},
		{"metrics: {serviceMonitor: {interval: 30s, scrapeTimeout: 1m}}", "metrics.serviceMonitor.scrapeTimeout is 1m, longer than the interval (30s): use a shorter one"},
		{"metrics: {podMonitor: {interval: 1m30s, scrapeTimeout: 1m31s}}", "metrics.podMonitor.scrapeTimeout is 1m31s, longer than the interval (1m30s)"},
		{"env: [{name: A, value: b, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]", "env: A has value and valueFrom: remove one of them"},
		{"webhook: {extraVolumes: [{name: a, emptyDir: {}}], extraVolumeMounts: [{name: a, mountPath: /etc/keyferry/tls/}]}", "webhook.extraVolumeMounts: volumes tls and a are both mounted at /etc/keyferry/tls/: use two paths"},
		{"webhook: {extraVolumes: [{name: a, emptyDir: {}}], extraVolumeMounts: [{name: a, mountPath: /etc/keyferry/tls/more}]}", "webhook.extraVolumeMounts: volume a is mounted at /etc/keyferry/tls/more, inside volume tls, which is read-only: use a path outside of /etc/keyferry/tls"},
		{"providerFile: {providers: [{name: hub, execConfig: {apiVersion: client.authentication.k8s.io/v1, command: /plugin}}, {name: hub, execConfig: {apiVersion: client.authentication.k8s.io/v1, command: /plugin}}]}", "providerFile: two providers have the name hub: rename one of them"},
		{"providerFile: {providers: [{name: hub, runIn: Pod, execConfig: {apiVersion: client.authentication.k8s.io/v1, command: /plugin}}]}", "providerFile: provider hub: runIn is Pod, which needs the image with the program: set image"},
		{"webhook: {namespaceSelector: {matchExpressions: [{key: team, operator: NotIn}]}}", "webhook.namespaceSelector.matchExpressions: key team: operator NotIn needs values: list them"},
		{"webhook: {objectSelector: {matchExpressions: [{key: team, operator: Exists, values: [a]}]}}", "webhook.objectSelector.matchExpressions: key team: operator Exists has no values: remove them, or use In or NotIn"},
		{"secretAccess: {namespaces: [keyferry-system]}", "secretAccess.namespaces must not list keyferry-system, Keyferry's own namespace"},
	} {
		_, err := render(chartDir, options{values: test.values})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.values, err, test.want)
		}
	}
}

// TestArgumentsOfTheChart: extraArgs cannot set again what a value sets, but for --log-level, which
// may differ from one component to the next.
func TestArgumentsOfTheChart(t *testing.T) {
	t.Parallel()
	flags := map[[2]string]bool{}
	for _, values := range []string{"", "certificates: {mode: cert-manager}", ciValues(t)["everything"]} {
		o := mustRender(t, values)
		for _, component := range components {
			for _, arg := range deployment(t, o, component).Spec.Template.Spec.Containers[0].Args {
				flag, _, _ := strings.Cut(arg, "=")
				flags[[2]string{component, flag}] = true
			}
		}
	}
	for both := range flags {
		component, flag := both[0], both[1]
		if slices.Contains([]string{"--log-level", "--shutdown-delay-duration", "--kube-api-qps"}, flag) { // the last two of everything's extraArgs
			continue
		}
		_, err := render(chartDir, options{values: component + ": {extraArgs: ['" + flag + "=']}"})
		if err == nil || !strings.Contains(err.Error(), component+".extraArgs: "+flag+" is set by the chart") {
			t.Errorf("%s.extraArgs: %s: got %v", component, flag, err)
		}
	}
}

// TestFlags: of the flags of a program, the chart sets some, and extraArgs can have the others.
func TestFlags(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "flags.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, component := range components {
		section := regexp.MustCompile("(?s)\n## " + component + "\n.*?```text\n(.*?)```").FindSubmatch(page)
		if section == nil {
			t.Fatalf("the page has no flags of the %s", component)
		}
		for _, flag := range regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[-a-z0-9]+)`).FindAllSubmatch(section[1], -1) {
			name := string(flag[1])
			if name == "--help" || name == "--version" { // the program would not serve
				continue
			}
			_, err := render(chartDir, options{values: component + ": {extraArgs: ['" + name + "=1']}"})
			if err != nil && !strings.Contains(err.Error(), name+" is set by the chart") {
				t.Errorf("%s.extraArgs: %v", component, err)
			}
		}
	}
}

// TestClientCertificates: the webhook serves only API servers that have a certificate of the CA.
func TestClientCertificates(t *testing.T) {
	d := deployment(t, mustRender(t, "webhook: {clientCertificates: {configMap: api-servers, names: [kube-apiserver, other]}}"), "webhook")
	args := d.Spec.Template.Spec.Containers[0].Args
	for _, want := range []string{"--client-ca-file=/etc/keyferry/client-ca/ca.crt", "--client-names=kube-apiserver,other"} {
		if !slices.Contains(args, want) {
			t.Errorf("args %q: no %s", args, want)
		}
	}
	mounted := slices.ContainsFunc(d.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Name == "client-ca" && v.ConfigMap != nil && v.ConfigMap.Name == "api-servers"
	})
	if !mounted {
		t.Errorf("volumes %+v", d.Spec.Template.Spec.Volumes)
	}
	if _, err := render(chartDir, options{values: "webhook: {clientCertificates: {names: [kube-apiserver]}}"}); err == nil || !strings.Contains(err.Error(), "webhook.clientCertificates.configMap") {
		t.Errorf("names without a CA: %v", err)
	}
}
