package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func deployment(t *testing.T, o objects, component string) appsv1.Deployment {
	t.Helper()
	return get[appsv1.Deployment](t, o, "Deployment/keyferry-"+component)
}

// TestPodSecurity asks Kubernetes' own Pod Security admission, for each version that there can be,
// of all that runs.
func TestPodSecurity(t *testing.T) {
	t.Parallel()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range ciValues(t) {
		specs := podSpecs(t, mustRender(t, values))
		if len(specs) != 5 {
			t.Errorf("%s: %d workloads, want three Deployments, a test and the check before an uninstallation", name, len(specs))
		}
		for key, template := range specs {
			for minor := 30; minor <= 37; minor++ {
				level := api.LevelVersion{Level: api.LevelRestricted, Version: api.MajorMinorVersion(1, minor)}
				for _, result := range evaluator.EvaluatePod(level, &template.ObjectMeta, &template.Spec) {
					if !result.Allowed && (!template.Spec.HostNetwork || result.ForbiddenReason != "host namespaces") {
						t.Errorf("%s: %s in Kubernetes 1.%d: %s: %s", name, key, minor, result.ForbiddenReason, result.ForbiddenDetail)
					}
				}
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	o := mustRender(t, "")
	for _, component := range components {
		d := deployment(t, o, component)
		pod := d.Spec.Template.Spec
		container := pod.Containers[0]
		if *d.Spec.Replicas != 2 {
			t.Errorf("%s has %d replicas, want 2", component, *d.Spec.Replicas)
		}
		selected := labels.SelectorFromSet(d.Spec.Selector.MatchLabels)
		if !selected.Matches(labels.Set(d.Spec.Template.Labels)) {
			t.Errorf("%s selects %s, but its Pods have %v", component, selected, d.Spec.Template.Labels)
		}
		if len(container.Resources.Requests) != 2 || container.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s has resources %v", component, container.Resources)
		}
		if want := "ghcr.io/keyferry/keyferry:v0.1.0"; container.Image != want {
			t.Errorf("%s runs %s, want %s", component, container.Image, want)
		}
		if len(pod.TopologySpreadConstraints) != 2 {
			t.Errorf("%s is spread by %v", component, pod.TopologySpreadConstraints)
		}
		for _, spread := range pod.TopologySpreadConstraints {
			if !apiequality.Semantic.DeepEqual(spread.LabelSelector, d.Spec.Selector) || spread.WhenUnsatisfiable != corev1.ScheduleAnyway {
				t.Errorf("%s is spread by %v", component, spread)
			}
		}
		budget := get[policyv1.PodDisruptionBudget](t, o, "PodDisruptionBudget/keyferry-"+component)
		if budget.Spec.MaxUnavailable.IntValue() != 1 || !apiequality.Semantic.DeepEqual(budget.Spec.Selector, d.Spec.Selector) {
			t.Errorf("the budget of %s is %v", component, budget.Spec)
		}
	}
	for name := range o {
		kind, _, _ := strings.Cut(name, "/")
		if slices.Contains([]string{"NetworkPolicy", "ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate", "Issuer"}, kind) {
			t.Errorf("%s is there unasked", name)
		}
	}
}

// TestKubernetes: the chart rejects values that the Kubernetes of the cluster cannot take, with a
// sentence.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	const plugin = "broker: {extraVolumes: [{name: plugins, image: {reference: registry.example.com/plugin:v1}}]}\n"
	for name, test := range map[string]struct{ kubernetes, values, want string }{
		"image volume on 1.30":           {"v1.30.14", plugin, `broker.extraVolumes: volume "plugins" is an image, which needs Kubernetes 1.35; this cluster has v1.30.14: use another kind of volume, or an image of Keyferry that contains the files`},
		"image volume on 1.34":           {"v1.34.4-eks-1234567", plugin, "if the feature gate ImageVolume is on, set imageVolume to true"},
		"image volume with the gate":     {"v1.34.4-eks-1234567", "imageVolume: true\n" + plugin, ""},
		"image volume on 1.35":           {"v1.35.0-gke.1", plugin, ""},
		"of the webhook":                 {"v1.30.14", "webhook: {extraVolumes: [{name: a, image: {reference: b}}]}", "webhook.extraVolumes"},
		"another volume":                 {"v1.30.14", "broker: {extraVolumes: [{name: plugins, emptyDir: {}}]}", ""},
		"imageVolume on 1.30":            {"v1.30.14", "imageVolume: true", "imageVolume is true, which needs Kubernetes 1.31; this cluster has v1.30.14: set imageVolume to auto"},
		"envFromFile on 1.34":            {"v1.34.4", "envFromFile: true", "envFromFile is true, which needs Kubernetes 1.35; this cluster has v1.34.4: set envFromFile to auto"},
		"both as text, on the newest":    {"v1.37.2", "envFromFile: 'true'\nimageVolume: 'true'", ""},
		"neither is used, on the oldest": {"v1.30.14", "envFromFile: false\nimageVolume: false", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := render(chartDir, options{values: test.values, kubernetes: test.kubernetes})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestShared: what is said for all components comes to each; what one says besides is added where
// there can be several, and replaces it elsewhere.
func TestShared(t *testing.T) {
	t.Parallel()
	const settings = `
nodeSelector: {PLACE: PLACE}
tolerations: [{key: PLACE, operator: Exists}]
affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: PLACE, operator: Exists}]}}]}}
topologySpreadConstraints: [{topologyKey: PLACE, maxSkew: 1, whenUnsatisfiable: DoNotSchedule}]
priorityClassName: PLACE
env: [{name: PLACE, value: x}]
podAnnotations: {PLACE: PLACE}
podLabels: {PLACE: PLACE}
deploymentAnnotations: {PLACE: PLACE}
`
	shared := strings.ReplaceAll(settings, "PLACE", "all")
	for _, component := range components {
		t.Run(component, func(t *testing.T) {
			t.Parallel()
			values := shared + component + ":" + strings.ReplaceAll(strings.ReplaceAll(settings, "PLACE", "own"), "\n", "\n  ") + `
  replicas: 5
  extraArgs: [--log-level=1]
  resources: {requests: {cpu: 7m}}
  extraVolumes: [{name: own, emptyDir: {}}]
  extraVolumeMounts: [{name: own, mountPath: /own}]
`
			o := mustRender(t, values)
			for _, other := range components {
				if other != component {
					checkPlaces(t, deployment(t, o, other), "all", "all")
				}
			}
			d := deployment(t, o, component)
			checkPlaces(t, d, "own", "all", "own")
			container := d.Spec.Template.Spec.Containers[0]
			if last := container.Args[len(container.Args)-1]; *d.Spec.Replicas != 5 || last != "--log-level=1" || container.Resources.Requests.Cpu().MilliValue() != 7 {
				t.Errorf("%d replicas, last argument %s, resources %v", *d.Spec.Replicas, last, container.Resources)
			}
			if !slices.ContainsFunc(d.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "own" }) ||
				!slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/own" }) {
				t.Errorf("volumes %v, mounts %v", d.Spec.Template.Spec.Volumes, container.VolumeMounts)
			}
		})
	}
}

// checkPlaces holds that what can be there once is place, and that maps and lists of what can be
// there several times have places.
func checkPlaces(t *testing.T, d appsv1.Deployment, place string, places ...string) {
	t.Helper()
	pod := d.Spec.Template.Spec
	selector := pod.TopologySpreadConstraints[0].LabelSelector
	once := map[string]string{
		"priorityClassName": pod.PriorityClassName,
		"toleration":        pod.Tolerations[0].Key,
		"spread":            pod.TopologySpreadConstraints[0].TopologyKey,
		"affinity":          pod.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution[0].Preference.MatchExpressions[0].Key,
	}
	for what, got := range once {
		if got != place {
			t.Errorf("%s: %s is %q, want %q", d.Name, what, got, place)
		}
	}
	if !apiequality.Semantic.DeepEqual(selector, d.Spec.Selector) {
		t.Errorf("%s: spread by %v", d.Name, selector)
	}
	env := map[string]string{}
	for _, variable := range pod.Containers[0].Env {
		env[variable.Name] = ""
	}
	for what, got := range map[string]map[string]string{
		"nodeSelector": pod.NodeSelector, "podLabels": d.Spec.Template.Labels, "podAnnotations": d.Spec.Template.Annotations,
		"deploymentAnnotations": d.Annotations, "env": env,
	} {
		for _, want := range places {
			if _, ok := got[want]; !ok {
				t.Errorf("%s: %s is %v, want %s in it", d.Name, what, slices.Sorted(maps.Keys(got)), want)
			}
		}
	}
}

func TestImages(t *testing.T) {
	t.Parallel()
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, test := range []struct{ name, image, want string }{
		{"tag", "{repository: example.com/x, tag: v9}", "example.com/x:v9"},
		{"digest wins", "{repository: example.com/x, tag: v9, digest: '" + digest + "'}", "example.com/x@" + digest},
		{"tag of the chart", "{repository: example.com/x}", "example.com/x:v0.1.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := mustRender(t, fmt.Sprintf("image: %s\nrefresher: {image: %s}\nimagePullSecrets: [{name: registry}]", test.image, test.image))
			for name, template := range podSpecs(t, o) {
				if got := template.Spec.Containers[0].Image; got != test.want {
					t.Errorf("%s runs %s, want %s", name, got, test.want)
				}
				if len(template.Spec.ImagePullSecrets) != 1 || template.Spec.ImagePullSecrets[0].Name != "registry" {
					t.Errorf("%s pulls with %v", name, template.Spec.ImagePullSecrets)
				}
			}
			if args := deployment(t, o, "webhook").Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "--refresher-image="+test.want) {
				t.Errorf("arguments of the webhook: %v", args)
			}
		})
	}
}

func TestDisruptionBudgets(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		values string
		want   int
	}{
		{"", 3},
		{"podDisruptionBudget: {enabled: false}", 0},
		{"broker: {replicas: 1}", 2}, // a budget of the only one would hold up every drain
	} {
		got := 0
		for _, object := range mustRender(t, test.values) {
			if object.GetKind() == "PodDisruptionBudget" {
				got++
			}
		}
		if got != test.want {
			t.Errorf("with %q there are %d budgets, want %d", test.values, got, test.want)
		}
	}
}

// TestNetworkPolicies: each port of a Pod is open, metrics only to whom the values say.
func TestNetworkPolicies(t *testing.T) {
	t.Parallel()
	o := mustRender(t, `
networkPolicy:
  enabled: true
  metricsFrom: [{podSelector: {matchLabels: {app: prometheus}}}]
  egress: {webhook: [{ports: [{port: 6443}]}]}
`)
	for _, component := range components {
		policy := get[networkingv1.NetworkPolicy](t, o, "NetworkPolicy/keyferry-"+component).Spec
		d := deployment(t, o, component)
		if !apiequality.Semantic.DeepEqual(&policy.PodSelector, d.Spec.Selector) {
			t.Errorf("the policy of %s selects %v", component, policy.PodSelector)
		}
		var open []string
		for _, rule := range policy.Ingress {
			for _, port := range rule.Ports {
				open = append(open, port.Port.StrVal)
				if restricted := len(rule.From) > 0; restricted != (port.Port.StrVal == "metrics") {
					t.Errorf("%s: port %s is open to %v", component, port.Port, rule.From)
				}
			}
		}
		for _, port := range d.Spec.Template.Spec.Containers[0].Ports {
			if !slices.Contains(open, port.Name) {
				t.Errorf("%s: port %s is closed", component, port.Name)
			}
		}
		if restricted := slices.Contains(policy.PolicyTypes, networkingv1.PolicyTypeEgress); restricted != (component == "webhook") {
			t.Errorf("%s: %v", component, policy.PolicyTypes)
		}
	}
}

// TestMetricsAreSecure: Prometheus presents a token, and verifies each component by the CA that
// Keyferry publishes and the name in its certificate.
func TestMetricsAreSecure(t *testing.T) {
	t.Parallel()
	type endpoint struct {
		Scheme, BearerTokenFile string
		Authorization           struct{ Credentials corev1.SecretKeySelector }
		TLSConfig               struct {
			CA         struct{ ConfigMap corev1.ConfigMapKeySelector }
			ServerName string
		}
		Relabelings []struct {
			Regex, Action string
			SourceLabels  []string
		}
	}
	endpoints := func(o objects, kind string) []endpoint {
		var spec struct{ Endpoints, PodMetricsEndpoints []endpoint }
		if err := json.Unmarshal(mustJSON(t, o[kind+"/keyferry"].Object["spec"]), &spec); err != nil {
			t.Fatal(err)
		}
		return append(spec.Endpoints, spec.PodMetricsEndpoints...)
	}
	const values = "metrics: {serviceMonitor: {enabled: true, relabelings: [{action: drop}]}, podMonitor: {enabled: true, authorization: {credentials: {name: s, key: k}}}}"
	o := mustRender(t, values, prometheusOperator)
	for kind, file := range map[string]string{"ServiceMonitor": "/var/run/secrets/kubernetes.io/serviceaccount/token", "PodMonitor": ""} {
		names := []string{}
		for _, e := range endpoints(o, kind) {
			names = append(names, e.TLSConfig.ServerName)
			if e.Scheme != "https" || e.BearerTokenFile != file || (e.Authorization.Credentials.Name == "s") != (file == "") {
				t.Errorf("%s: %+v", kind, e)
			}
			if ca := e.TLSConfig.CA.ConfigMap; ca.Name != "keyferry-trust" || ca.Key != "ca.crt" {
				t.Errorf("%s: CA %+v", kind, ca)
			}
			if len(e.Relabelings) == 0 || kind == "ServiceMonitor" && len(e.Relabelings) == 1 {
				t.Fatalf("%s: relabelings %+v", kind, e.Relabelings)
			}
			if keep := e.Relabelings[0]; keep.Action != "keep" || "keyferry-"+keep.Regex+"."+namespace+".svc" != e.TLSConfig.ServerName {
				t.Errorf("%s: %+v, name %s", kind, keep, e.TLSConfig.ServerName)
			}
			if kind == "ServiceMonitor" && e.Relabelings[1].Action != "drop" {
				t.Errorf("the values' relabelings are lost: %+v", e.Relabelings)
			}
		}
		if want := []string{"keyferry-webhook." + namespace + ".svc", "keyferry-broker." + namespace + ".svc", "keyferry-controller." + namespace + ".svc"}; !slices.Equal(names, want) {
			t.Errorf("%s: endpoints of %q", kind, names)
		}
	}
	for _, component := range components {
		for _, review := range []string{"tokenreviews", "subjectaccessreviews"} {
			if !slices.Contains(may(t, o, component, "create", review), "") {
				t.Errorf("%s may not create %s", component, review)
			}
		}
	}
	reader := get[rbacv1.ClusterRole](t, o, "ClusterRole/keyferry-metrics-reader")
	if len(reader.Rules) != 1 || !slices.Equal(reader.Rules[0].NonResourceURLs, []string{"/metrics"}) || !slices.Equal(reader.Rules[0].Verbs, []string{"get"}) {
		t.Errorf("keyferry-metrics-reader: %+v", reader.Rules)
	}
	if _, err := render(chartDir, options{values: "metrics: {podMonitor: {enabled: true}}", apis: []string{prometheusOperator}}); err == nil || !strings.Contains(err.Error(), "metrics.podMonitor.authorization") {
		t.Errorf("a PodMonitor without a token: %v", err)
	}

	plain := mustRender(t, "metrics: {secure: false, serviceMonitor: {enabled: true}, podMonitor: {enabled: true}}\ncertificates: {mode: cert-manager}", prometheusOperator)
	for _, kind := range []string{"ServiceMonitor", "PodMonitor"} {
		if got := endpoints(plain, kind); len(got) != 1 || got[0].Scheme != "" || got[0].BearerTokenFile != "" {
			t.Errorf("%s of plain HTTP: %+v", kind, got)
		}
	}
	for _, component := range components {
		if args := deployment(t, plain, component).Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "--metrics-secure=false") {
			t.Errorf("%s: arguments %q", component, args)
		}
		if got := may(t, plain, component, "create", "tokenreviews"); component != "broker" && len(got) > 0 {
			t.Errorf("%s may create TokenReviews, which it does not need", component)
		}
	}
	for _, name := range []string{"Certificate/keyferry-controller", "ClusterRole/keyferry-metrics-reader"} {
		if _, ok := plain[name]; ok {
			t.Errorf("%s is not needed", name)
		}
	}
}

func TestMonitors(t *testing.T) {
	t.Parallel()
	const values = "metrics: {serviceMonitor: {enabled: true, labels: {release: p}, interval: 30s}, podMonitor: {enabled: true, labels: {release: p}, authorization: {credentials: {name: s, key: k}}}}"
	without := mustRender(t, values)
	for _, name := range []string{"ServiceMonitor/keyferry", "PodMonitor/keyferry", "Service/keyferry-metrics"} {
		if _, ok := without[name]; ok {
			t.Errorf("%s is rendered for a cluster without the Prometheus Operator", name)
		}
	}
	o := mustRender(t, values, prometheusOperator)
	service := get[corev1.Service](t, o, "Service/keyferry-metrics")
	for _, kind := range []string{"ServiceMonitor", "PodMonitor"} {
		monitor, ok := o[kind+"/keyferry"]
		if !ok {
			t.Fatalf("there is no %s", kind)
		}
		if monitor.GetLabels()["release"] != "p" {
			t.Errorf("labels of the %s: %v", kind, monitor.GetLabels())
		}
		var spec struct {
			Selector struct{ MatchLabels labels.Set }
		}
		content, _ := json.Marshal(monitor.Object["spec"])
		if err := json.Unmarshal(content, &spec); err != nil {
			t.Fatal(err)
		}
		selected := labels.SelectorFromSet(spec.Selector.MatchLabels)
		if kind == "ServiceMonitor" {
			if !selected.Matches(labels.Set(service.Labels)) {
				t.Errorf("the ServiceMonitor selects %s, the Service has %v", selected, service.Labels)
			}
			selected = labels.SelectorFromSet(service.Spec.Selector)
		}
		for _, component := range components {
			d := deployment(t, o, component)
			if !selected.Matches(labels.Set(d.Spec.Template.Labels)) {
				t.Errorf("the %s selects %s, Pods of %s have %v", kind, selected, component, d.Spec.Template.Labels)
			}
			if !slices.ContainsFunc(d.Spec.Template.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool { return p.Name == "metrics" }) {
				t.Errorf("%s has no port metrics", component)
			}
		}
	}
}
