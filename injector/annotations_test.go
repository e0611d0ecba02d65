package injector_test

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/injector/jsonview"
)

func TestParseAnnotations(t *testing.T) {
	tenant := types.NamespacedName{Namespace: "fleet", Name: "tenant-1"}
	tests := map[string]struct {
		annotations map[string]string
		want        injector.Annotations
	}{
		"none":            {nil, injector.Annotations{}},
		"others'":         {map[string]string{"example.com/cluster": "x", "keyferry.example.com/cluster": "x"}, injector.Annotations{}},
		"status alone":    {map[string]string{"keyferry.dev/status": "anything"}, injector.Annotations{}},
		"cluster":         {map[string]string{"keyferry.dev/cluster": "fleet/tenant-1"}, injector.Annotations{Cluster: tenant}},
		"own namespace":   {map[string]string{"keyferry.dev/cluster": "tenant-1.eu"}, injector.Annotations{Cluster: types.NamespacedName{Namespace: "shop", Name: "tenant-1.eu"}}},
		"cluster profile": {map[string]string{"keyferry.dev/cluster-profile": "fleet/tenant-1", "keyferry.dev/delivery": "proxy"}, injector.Annotations{Cluster: tenant, ClusterProfile: true, Delivery: "proxy"}},
		"credential request": {
			map[string]string{"keyferry.dev/credential-request": "web", "keyferry.dev/namespace": "a"},
			injector.Annotations{Cluster: types.NamespacedName{Namespace: "shop", Name: "web"}, CredentialRequest: true, Namespace: "a"},
		},
		"clusters": {
			map[string]string{"keyferry.dev/clusters": "fleet/tenant-1, tenant-2", "keyferry.dev/set-kubeconfig": "true", "keyferry.dev/delivery": "proxy"},
			injector.Annotations{Clusters: []types.NamespacedName{tenant, {Namespace: "shop", Name: "tenant-2"}}, SetKubeconfig: true, Delivery: "proxy"},
		},
		"cluster and clusters": {
			map[string]string{"keyferry.dev/cluster": "fleet/tenant-1", "keyferry.dev/clusters": "fleet/tenant-2", "keyferry.dev/set-kubeconfig": "false", "keyferry.dev/namespace": "a"},
			injector.Annotations{Cluster: tenant, Clusters: []types.NamespacedName{{Namespace: "fleet", Name: "tenant-2"}}, Namespace: "a"},
		},
		"everything": {
			map[string]string{
				"keyferry.dev/cluster":             "fleet/tenant-1",
				"keyferry.dev/containers":          "app, worker",
				"keyferry.dev/exclude-containers":  "migrate",
				"keyferry.dev/delivery":            "auto",
				"keyferry.dev/namespace":           "team-a",
				"keyferry.dev/on-endpoint-change":  "restart",
				"keyferry.dev/refresher-resources": `{"limits":{"memory":"32Mi"}}`,
				"keyferry.dev/metrics-port":        "9464",
				"keyferry.dev/status":              "{}",
			},
			injector.Annotations{
				Cluster: tenant, Containers: []string{"app", "worker"}, ExcludeContainers: []string{"migrate"}, Delivery: "auto",
				Namespace: "team-a", OnEndpointChange: "restart",
				MetricsPort:        9464,
				RefresherResources: &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}},
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := injector.ParseAnnotations(test.annotations, "shop")
			if err != nil {
				t.Fatal(err)
			}
			if !apiequality.Semantic.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestParseAnnotationsRefuses(t *testing.T) {
	// Each value is of an annotation beside a valid cluster, unless it is the cluster's own.
	tests := map[string]struct {
		key, value string
		want       []string // in the message, besides the annotation
	}{
		"empty cluster":           {"cluster", "", []string{`""`, "[namespace/]name"}},
		"two slashes":             {"cluster", "a/b/c", []string{`"a/b/c"`, "[namespace/]name"}},
		"no name":                 {"cluster", "fleet/", []string{`"fleet/"`}},
		"no namespace":            {"cluster", "/tenant-1", []string{`"/tenant-1"`}},
		"capitals":                {"cluster", "fleet/Tenant", []string{`"fleet/Tenant"`}},
		"dots in namespace":       {"cluster", "fle.et/tenant", []string{"namespace"}},
		"space":                   {"cluster", " fleet/tenant-1", []string{`" fleet/tenant-1"`}},
		"long":                    {"cluster", strings.Repeat("a", 10_000), []string{"no more than 253"}},
		"empty containers":        {"containers", "", []string{`""`, "separated by commas"}},
		"stray comma":             {"containers", "app,", []string{`"app,"`}},
		"our own container":       {"exclude-containers", "keyferry-refresher", []string{"keyferry-refresher", "remove it"}},
		"our own copier":          {"containers", "keyferry-plugin", []string{"keyferry-plugin", "remove it"}},
		"unknown delivery":        {"delivery", "Direct", []string{`"Direct"`, "auto, direct or proxy"}},
		"namespace":               {"namespace", "team_a", []string{`"team_a"`}},
		"on-endpoint-change":      {"on-endpoint-change", "reload", []string{`"reload"`, "restart or ignore"}},
		"port no number":          {"metrics-port", "http", []string{`"http"`, "from 1024 to 65535"}},
		"port of root":            {"metrics-port", "80", []string{`"80"`, "from 1024 to 65535"}},
		"port of a proxy":         {"metrics-port", "16445", []string{"16443 to 16459", "use another"}},
		"resources no JSON":       {"refresher-resources", "cpu=1", []string{"use JSON such as"}},
		"resources unknown field": {"refresher-resources", `{"limit":{}}`, []string{`"limit"`, "use JSON such as"}},
		"resources trailing":      {"refresher-resources", `{} {}`, []string{"has text after the JSON value"}},
		"resources negative":      {"refresher-resources", `{"limits":{"cpu":"-1"}}`, []string{"cpu"}},
		"resources above limit":   {"refresher-resources", `{"requests":{"cpu":"2"},"limits":{"cpu":"1"}}`, []string{"cpu", "limit"}},
		"resources claims":        {"refresher-resources", `{"claims":[{"name":"gpu"}]}`, []string{"claims"}},
		"empty clusters":          {"clusters", "", []string{`""`, "[namespace/]name of a TargetCluster"}},
		"stray comma in clusters": {"clusters", "fleet/x,", []string{`""`}},
		"clusters twice":          {"clusters", "fleet/x,shop/y,y", []string{"shop/y twice", "remove one"}},
		"the first again":         {"clusters", "fleet/x,fleet/tenant-1", []string{"both contain fleet/tenant-1", "remove the TargetCluster from annotation keyferry.dev/clusters"}},
		"too many clusters":       {"clusters", strings.Repeat("x,", 16) + "x", []string{"17 TargetClusters, but at most 16", "several Pods"}},
		"set-kubeconfig":          {"set-kubeconfig", "yes", []string{`"yes"`, "use true or false"}},
		"nothing to set":          {"set-kubeconfig", "true", []string{"has no effect without keyferry.dev/clusters"}},
		"credential-request":      {"credential-request", "fleet/x", []string{`"fleet/x"`, "use the name of a CredentialRequest in the Pod's namespace"}},
		"two of them":             {"credential-request", "x", []string{"annotations keyferry.dev/cluster and keyferry.dev/credential-request exclude each other", "remove one"}},
		"misspelt request":        {"credentials-request", "x", []string{"did you mean keyferry.dev/credential-request?"}},
		"misspelt containers":     {"container", "app", []string{"did you mean keyferry.dev/containers?"}},
		"misspelt delivery":       {"delivry", "auto", []string{"did you mean keyferry.dev/delivery?"}},
		"misspelt namespace":      {"NameSpace", "a", []string{"did you mean keyferry.dev/namespace?"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			annotations := map[string]string{injector.AnnotationCluster: "fleet/tenant-1"}
			annotations[injector.Prefix+test.key] = test.value
			refused(t, annotations, append(test.want, "annotation", injector.Prefix+test.key)...)
		})
	}
}

func TestParseAnnotationsRefusesWhatDoesNotGoTogether(t *testing.T) {
	t.Run("misspelt cluster alone", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/clutser": "fleet/tenant-1"}, "keyferry.dev/clutser", "did you mean keyferry.dev/cluster?")
	})
	t.Run("option without cluster", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/delivery": "direct"}, "keyferry.dev/delivery", "without keyferry.dev/cluster", "local cluster")
	})
	t.Run("two clusters", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/cluster": "x", "keyferry.dev/cluster-profile": "x"}, "keyferry.dev/cluster and keyferry.dev/cluster-profile exclude each other", "remove one")
	})
	t.Run("clusters directly", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/clusters": "x", "keyferry.dev/delivery": "direct"}, "annotation keyferry.dev/delivery: direct is not possible together with keyferry.dev/clusters", "use proxy, or remove the annotation")
	})
	t.Run("options of the first without one", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/clusters": "x", "keyferry.dev/namespace": "a", "keyferry.dev/on-endpoint-change": "ignore"},
			"annotation keyferry.dev/namespace has no effect without keyferry.dev/cluster", "annotation keyferry.dev/on-endpoint-change has no effect", "use the local cluster")
	})
	t.Run("profile of the same name", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/cluster-profile": "x", "keyferry.dev/clusters": "x"}, "keyferry.dev/cluster-profile and keyferry.dev/clusters both contain shop/x")
	})
	t.Run("spoilt cluster profile", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/cluster-profile": "Paris"}, "annotation keyferry.dev/cluster-profile", `"Paris"`, "of a ClusterProfile")
	})
	t.Run("misspelt cluster profile", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/clusterprofile": "fleet/paris"}, "did you mean keyferry.dev/cluster-profile?")
	})
	t.Run("credential request and others", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/cluster-profile": "x", "keyferry.dev/credential-request": "y", "keyferry.dev/clusters": "x,y"},
			"annotations keyferry.dev/cluster-profile and keyferry.dev/credential-request exclude each other",
			"annotations keyferry.dev/clusters and keyferry.dev/credential-request exclude each other")
	})
	t.Run("same container twice", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/cluster": "x", "keyferry.dev/containers": "a,b", "keyferry.dev/exclude-containers": "b"}, `"b"`, "both")
	})
	t.Run("everything at once", func(t *testing.T) {
		refused(t, map[string]string{"keyferry.dev/cluster": "A", "keyferry.dev/delivery": "B", "keyferry.dev/no": "c"}, `"A"`, `"B"`, "keyferry.dev/no")
	})
}

func refused(t *testing.T, annotations map[string]string, want ...string) {
	t.Helper()
	got, err := injector.ParseAnnotations(annotations, "shop")
	if err == nil {
		t.Fatalf("got %+v, want an error", got)
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
	if len(err.Error()) > 1000 {
		t.Errorf("the error is %d bytes long", len(err.Error()))
	}
	if !apiequality.Semantic.DeepEqual(got, injector.Annotations{}) {
		t.Errorf("got %+v besides the error", got)
	}
}

func FuzzParseAnnotations(f *testing.F) {
	f.Add("keyferry.dev/cluster", "fleet/tenant-1", "keyferry.dev/containers", "app,worker")
	f.Add("keyferry.dev/cluster", "tenant-1", "keyferry.dev/refresher-resources", `{"limits":{"memory":"32Mi"}}`)
	f.Add("keyferry.dev/clusters", "a/b,c", "keyferry.dev/set-kubeconfig", "true")
	f.Add("keyferry.dev/credential-request", "web", "keyferry.dev/namespace", "a")
	f.Add("keyferry.dev/clutser", "/", "keyferry.dev/", ",")
	f.Add("example.com/x", "y", "keyferry.dev/namespace", "Ä")
	f.Add("example.com/x", "y", "keyferry.dev/namespace", "team-a")
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 string) {
		got, err := injector.ParseAnnotations(map[string]string{key1: value1, key2: value2}, "shop")
		ours := strings.HasPrefix(key1, injector.Prefix) && key1 != injector.AnnotationStatus ||
			strings.HasPrefix(key2, injector.Prefix) && key2 != injector.AnnotationStatus
		// Nothing of ours is ever overlooked: it is an error, or leads to a cluster.
		if asked := !got.Empty(); err == nil && asked != ours {
			t.Errorf("got %+v", got)
		}
		if err != nil && (!ours || !apiequality.Semantic.DeepEqual(got, injector.Annotations{})) {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

// TestLetterCase: API servers accept the prefix in upper and lower case, and U+212A, the Kelvin
// sign, as a k.
func TestLetterCase(t *testing.T) {
	t.Parallel()
	for key, denied := range map[string]bool{
		"Keyferry.dev/cluster": true, "KEYFERRY.DEV/X": true, "\u212Aeyferry.dev/cluster": true, "\u212AEYFERRY.dev/": true,
		"keyferry.devs/cluster": false, "xkeyferry.dev/cluster": false, "keyferry.dev": false, "\u212Aeyferry.dev": false, "": false,
	} {
		raw, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: "fleet/tenant-1"}}})
		if err != nil {
			t.Fatal(err)
		}
		checked, err := jsonview.Check(raw)
		if err != nil {
			t.Fatal(err)
		}
		pod, err := injector.ReadPod(checked)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := injector.ParseAnnotations(pod.Metadata.Annotations, "shop"); (err != nil) != denied || denied && !strings.Contains(err.Error(), "did you mean keyferry.dev/") {
			t.Errorf("%q: got %v, want denied: %t", key, err, denied)
		}
		if err := injector.CheckAnnotation(key, "fleet/tenant-1"); (err != nil) != denied {
			t.Errorf("%q alone: got %v, want denied: %t", key, err, denied)
		}
	}
}

func TestCheckAnnotation(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		key, value string
		denied     bool
	}{
		{injector.AnnotationCluster, "fleet/tenant-1", false},
		{injector.AnnotationCluster, "tenant-1", false},
		{injector.AnnotationCluster, "Tenant", true},
		{injector.AnnotationCluster, "fleet/{{workflow.parameters.tenant}}", false},
		{injector.AnnotationNamespace, "$(params.namespace)", false},
		{injector.AnnotationSetKubeconfig, "true", false},
		{injector.AnnotationOnEndpointChange, "reload", true},
		{injector.AnnotationStatus, "anything", false},
		{injector.Prefix + "clutser", "{{workflow.parameters.tenant}}", true},
		{"example.com/a", "b", false},
	} {
		if err := injector.CheckAnnotation(test.key, test.value); (err != nil) != test.denied {
			t.Errorf("%s: %q: got %v, want denied: %t", test.key, test.value, err, test.denied)
		}
	}
}
