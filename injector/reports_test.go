package injector_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keyferry/keyferry/injector"
)

// Situations in which other injectors failed according to their users, with inputs of our own.

// reported is a Pod that is injected, changed by another webhook or user, and injected again.
type reported struct {
	report string // address
	spec   string
	// meanwhile changes the Pod between the injections.
	meanwhile func(pod reportedPod)
	// warned is a part of a warning, if there is one.
	warned string
	// What the Pod has in the end. Empty is what it had, with the sidecar first; see check.
	initContainers, containers string
	// injected are the containers with the target's credentials; empty for all.
	injected string
}

var reports = map[string]reported{
	"another webhook gives the Pod a name between two calls": {
		report: "https://github.com/Azure/azure-workload-identity/issues/1744",
		spec:   "{containers: [{name: app}]}",
		meanwhile: func(p reportedPod) {
			p.member("metadata")["name"] = "web-7c5d"
		},
	},
	"another webhook adds containers between two calls": {
		report: "https://github.com/aws/amazon-eks-pod-identity-webhook/issues/61",
		spec:   "{containers: [{name: app}]}",
		meanwhile: func(p reportedPod) {
			p.append("containers", "{name: logs}", "{name: metrics}")
		},
		containers: "app logs metrics",
	},
	"an injector adds its own agent between two calls": {
		report: "https://github.com/aws/amazon-eks-pod-identity-webhook/issues/91",
		spec:   "{containers: [{name: app, volumeMounts: [{name: kube-api-access-x, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]}]}",
		meanwhile: func(p reportedPod) {
			p.prepend("initContainers", "{name: vault-agent-init}")
			p.append("containers", "{name: vault-agent}")
		},
		initContainers: "vault-agent-init keyferry-refresher",
		containers:     "app vault-agent",
		injected:       "app",
	},
	"a mesh puts its container first, with the application's mounts": {
		report: "https://github.com/aws/amazon-eks-pod-identity-webhook/issues/159",
		spec:   "{containers: [{name: app, volumeMounts: [{name: kube-api-access-x, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]}]}",
		meanwhile: func(p reportedPod) {
			app := p.list("containers")[0].(map[string]any)
			p.prepend("containers", "{name: istio-proxy}")
			p.list("containers")[0].(map[string]any)["volumeMounts"] = app["volumeMounts"]
		},
		containers: "istio-proxy app",
		injected:   "app",
	},
	"an init container is added after the volume": {
		report: "https://github.com/DataDog/datadog-agent/pull/37091",
		spec:   "{containers: [{name: app}]}",
		meanwhile: func(p reportedPod) {
			p.append("initContainers", "{name: download}")
		},
		initContainers: "keyferry-refresher download",
	},
	"an init container is put before the sidecar": {
		report: "https://github.com/istio/istio/issues/33911",
		spec:   "{initContainers: [{name: migrate}], containers: [{name: app}]}",
		meanwhile: func(p reportedPod) {
			p.prepend("initContainers", "{name: early}")
		},
		initContainers: "keyferry-refresher early migrate",
	},
	"the webhook is called twice at the same time": {
		report:    "https://github.com/k8snetworkplumbingwg/network-resources-injector/pull/224",
		spec:      "{volumes: [{name: data, emptyDir: {}}], containers: [{name: app, volumeMounts: [{name: data, mountPath: /data}]}]}",
		meanwhile: func(reportedPod) {},
	},
	"the order of containers means something": {
		report:     "https://github.com/salesforce/generic-sidecar-injector/issues/22",
		spec:       "{initContainers: [{name: z}, {name: a}], containers: [{name: web}, {name: linkerd-proxy}, {name: app}]}",
		meanwhile:  func(reportedPod) {},
		containers: "web linkerd-proxy app",
		injected:   "web app",
	},
	"a copy of an injected Pod, with a container for debugging": {
		report: "https://github.com/openservicemesh/osm/issues/4668",
		spec:   "{containers: [{name: app}]}",
		meanwhile: func(p reportedPod) {
			p.member("metadata")["name"] = "copy"
			p.append("containers", "{name: debugger}")
		},
		containers: "app debugger",
	},
	"two webhooks, each of which wants the last word on the image": {
		report: "https://github.com/istio/istio/pull/57386",
		spec:   "{containers: [{name: app}]}",
		meanwhile: func(p reportedPod) {
			for _, list := range []string{"initContainers", "containers"} {
				for _, c := range p.list(list) {
					c := c.(map[string]any)
					c["image"] = "mirror.example.com/" + fmt.Sprint(c["image"])
				}
			}
		},
	},
	"a container of another webhook has no token of the local cluster": {
		report: "https://github.com/kubernetes/kubernetes/issues/69733",
		spec:   "{containers: [{name: app, volumeMounts: [{name: kube-api-access-x, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]}]}",
		meanwhile: func(p reportedPod) {
			p.append("containers", "{name: late}")
		},
		containers: "app late",
	},
	"a Secret is mounted at /run/secrets": {
		report: "https://github.com/kubernetes/kubernetes/issues/65835",
		spec:   "{volumes: [{name: s, secret: {secretName: s}}], containers: [{name: app, volumeMounts: [{name: s, mountPath: /run/secrets}]}]}",
		warned: "container app mounts volume s read-only at /run/secrets",
	},
	"a part of a Secret is mounted below /run/secrets": {
		report:    "https://github.com/kubernetes/kubernetes/issues/65835",
		spec:      "{volumes: [{name: s, secret: {secretName: s}}], containers: [{name: app, volumeMounts: [{name: s, mountPath: /run/secrets/tmp, subPath: ..secrets}]}]}",
		meanwhile: func(reportedPod) {},
	},
	"a function's Secret is mounted at /run/secrets": {
		report: "https://github.com/openfaas/faas-netes/issues/188",
		spec: "{volumes: [{name: p, projected: {sources: [{secret: {name: key, items: [{key: key, path: key}]}}]}}], " +
			"containers: [{name: repocount, volumeMounts: [{name: p, mountPath: /run/secrets, readOnly: true}]}]}",
		warned: "container repocount mounts volume p read-only at /run/secrets",
	},
}

func TestReports(t *testing.T) {
	t.Parallel()
	for name, r := range reports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.HasPrefix(r.report, "https://") {
				t.Error("the case has no address")
			}
			raw, err := yaml.YAMLToJSON([]byte("{kind: Pod, metadata: {generateName: web-, namespace: shop, annotations: {keyferry.dev/cluster: fleet/tenant-1}}, spec: " + r.spec + "}"))
			if err != nil {
				t.Fatal(err)
			}
			i := defaultInstallation()
			first, err := i.inject(raw)
			if err != nil {
				t.Fatal(err)
			}
			if r.warned != "" {
				if all := strings.Join(first.Warnings, "\n"); !strings.Contains(all, r.warned) {
					t.Errorf("got the warnings %q, want … %s", all, r.warned)
				}
				return
			}
			pod := reportedPod(tree(t, apply(t, raw, first.Operations)))
			r.meanwhile(pod)
			changed, err := json.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			second, err := i.inject(changed)
			if err != nil {
				t.Fatal(err)
			}
			final := apply(t, changed, second.Operations)
			r.check(t, raw, tree(t, final))
			if third, err := i.inject(final); err != nil || len(third.Operations) > 0 {
				t.Errorf("injecting it once more gives %v, %v", third.Operations, err)
			}
		})
	}
}

// check compares the Pod with the expected one, and finds duplicates that the API server would
// reject.
func (r reported) check(t *testing.T, raw []byte, pod reportedPod) {
	t.Helper()
	before := reportedPod(tree(t, raw))
	wanted := func(want string, otherwise []string) string {
		if want == "" {
			return strings.Join(otherwise, " ")
		}
		return want
	}
	if got, want := pod.names("initContainers"), wanted(r.initContainers, append([]string{"keyferry-refresher"}, before.names("initContainers")...)); strings.Join(got, " ") != want {
		t.Errorf("init containers %q, want %q", got, want)
	}
	containers := pod.names("containers")
	if want := wanted(r.containers, before.names("containers")); strings.Join(containers, " ") != want {
		t.Errorf("containers %q, want %q", containers, want)
	}
	var injected []string
	for _, list := range []string{"containers", "initContainers"} {
		for _, c := range pod.list(list) {
			c := c.(map[string]any)
			paths := map[any]int{}
			mounts, _ := c["volumeMounts"].([]any)
			for _, m := range mounts {
				mount := m.(map[string]any)
				if paths[mount["mountPath"]]++; paths[mount["mountPath"]] > 1 {
					t.Errorf("container %v mounts twice at %v", c["name"], mount["mountPath"])
				}
				if list == "containers" && mount["name"] == injector.CredentialsVolume {
					injected = append(injected, fmt.Sprint(c["name"]))
				}
			}
		}
	}
	if want := wanted(r.injected, containers); strings.Join(injected, " ") != want {
		t.Errorf("injected are %q, want %q", injected, want)
	}
	volumes := pod.names("volumes")
	if slices.Sort(volumes); len(slices.Compact(slices.Clone(volumes))) != len(volumes) {
		t.Errorf("volumes %q", volumes)
	}
}

// reportedPod is a Pod as decoded JSON.
type reportedPod map[string]any

func (p reportedPod) member(name string) map[string]any { return p[name].(map[string]any) }

func (p reportedPod) list(name string) []any {
	list, _ := p.member("spec")[name].([]any)
	return list
}

func (p reportedPod) names(list string) []string {
	var names []string
	for _, element := range p.list(list) {
		names = append(names, fmt.Sprint(element.(map[string]any)["name"]))
	}
	return names
}

func (p reportedPod) append(list string, elements ...string) {
	p.insert(list, len(p.list(list)), elements)
}

func (p reportedPod) prepend(list string, elements ...string) { p.insert(list, 0, elements) }

func (p reportedPod) insert(list string, at int, elements []string) {
	for _, text := range slices.Backward(elements) {
		var element any
		if err := yaml.Unmarshal([]byte(text), &element); err != nil {
			panic(err)
		}
		p.member("spec")[list] = slices.Insert(p.list(list), at, element)
	}
}
