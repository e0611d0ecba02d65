package webhook

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/keyferry/keyferry/internal/testenv"
)

// node creates a node whose kubelet declares the features.
func node(t *testing.T, name, os string, features ...string) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: os}}}
	must(t, api.client.Create(t.Context(), n))
	t.Cleanup(func() { must(t, api.client.Delete(context.Background(), n)) })
	n.Status.DeclaredFeatures = features
	n.Status.NodeInfo.KubeletVersion, n.Status.NodeInfo.ContainerRuntimeVersion = "v1.36.3", "containerd://2.2.1"
	must(t, api.client.Status().Update(t.Context(), n))
}

func TestProbe(t *testing.T) {
	probe := &Probe{Feature: EnvFromFile(), Client: api.client, Namespace: "keyferry-system"}
	is := func(able bool, lack string) {
		t.Helper()
		probe.probe(t.Context())
		if err := probe.Ready(nil); err != nil {
			t.Fatal(err)
		}
		if got := probe.last.Load().lack; probe.Able() != able || !strings.Contains(got, lack) || able != (got == "") {
			t.Errorf("able %t, lack %q; want %t, %q", probe.Able(), got, able, lack)
		}
	}
	if probe.Able() || probe.Ready(nil) == nil {
		t.Error("knows before it has asked")
	}
	if !testenv.Has(testenv.EnvFromFile) {
		is(false, "the API server ")
		return
	}
	is(false, "there is no Linux node")
	node(t, "new", "linux", "GuaranteedQoSPodCPUResize", restartAllContainers)
	node(t, "windows", "windows")
	is(true, "")
	t.Run("an old node joins", func(t *testing.T) {
		node(t, "old", "linux", "GuaranteedQoSPodCPUResize")
		is(false, "node old (kubelet v1.36.3) does not declare RestartAllContainersOnContainerExits")
	})
	is(true, "")

	var templates corev1.PodTemplateList
	must(t, api.client.List(t.Context(), &templates))
	if len(templates.Items) != 0 {
		t.Errorf("the probe leaves %d PodTemplates", len(templates.Items))
	}
}

// answering returns a probe for an API server whose response to the dry run is the PodTemplate as
// changed by create.
func answering(t *testing.T, feature Feature, create func(*corev1.PodTemplate) error) *Probe {
	t.Helper()
	watching, err := client.NewWithWatch(api.config, client.Options{Scheme: api.client.Scheme(), Mapper: api.client.RESTMapper()})
	must(t, err)
	return &Probe{Feature: feature, Namespace: "keyferry-system", Client: interceptor.NewClient(watching, interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, object client.Object, _ ...client.CreateOption) error {
			template, ok := object.(*corev1.PodTemplate)
			if !ok {
				t.Fatalf("creates a %T", object)
			}
			return create(template)
		},
	})}
}

func TestProbeOfOldServers(t *testing.T) {
	node(t, "new", "linux", restartAllContainers)
	for name, c := range map[string]struct {
		answer func(*corev1.PodTemplate) error
		lack   string
	}{
		"drops restart rules": {func(p *corev1.PodTemplate) error {
			p.Template.Spec.InitContainers[0].RestartPolicyRules = nil
			return nil
		}, "the API server drops restartPolicyRules"},
		"drops fileKeyRef": {func(p *corev1.PodTemplate) error {
			p.Template.Spec.Containers[0].Env[0].ValueFrom.FileKeyRef = nil
			return nil
		}, "the API server drops fileKeyRef"},
		"drops the source": {func(p *corev1.PodTemplate) error {
			p.Template.Spec.Containers[0].Env[0].ValueFrom = nil
			return nil
		}, "the API server drops fileKeyRef"},
	} {
		t.Run(name, func(t *testing.T) {
			probe := answering(t, EnvFromFile(), c.answer)
			probe.probe(t.Context())
			if probe.Able() || probe.last.Load().lack != c.lack {
				t.Errorf("got %+v", probe.last.Load())
			}
		})
	}
	t.Run("refuses the value", func(t *testing.T) {
		// The real server's way of saying so, with a value that it does not know.
		probe := answering(t, EnvFromFile(), func(p *corev1.PodTemplate) error {
			p.Template.Spec.InitContainers[0].RestartPolicyRules[0].Action = "RestartTheWorld"
			return api.client.Create(context.Background(), p, client.DryRunAll)
		})
		probe.probe(t.Context())
		if last := probe.last.Load(); last == nil || !strings.Contains(last.lack, "the API server rejects") {
			t.Errorf("got %+v", last)
		}
	})
}

func TestProbeKeepsTheLastAnswer(t *testing.T) {
	node(t, "new", "linux", restartAllContainers)
	failing := false
	probe := answering(t, EnvFromFile(), func(*corev1.PodTemplate) error {
		if failing {
			return errors.New("not now")
		}
		return nil
	})
	probe.probe(t.Context())
	failing = true
	probe.probe(t.Context())
	if probe.Able() != testenv.Has(testenv.EnvFromFile) || probe.Ready(nil) != nil {
		t.Error("a failed probe changed what is known")
	}
}

func TestProbeOfImageVolumes(t *testing.T) {
	node(t, "new", "linux")
	probe := &Probe{Feature: ImageVolume(), Client: api.client, Namespace: "keyferry-system"}
	if probe.probe(t.Context()); probe.Able() != testenv.Has(testenv.ImageVolume) {
		t.Errorf("got %+v", probe.last.Load())
	}
	probe = answering(t, ImageVolume(), func(p *corev1.PodTemplate) error {
		p.Template.Spec.Volumes[0].Image = nil
		return nil
	})
	if probe.probe(t.Context()); probe.Able() || probe.last.Load().lack != "the API server drops volumes that are images" {
		t.Errorf("got %+v", probe.last.Load())
	}
}

func TestNodesThatKnowImageVolumes(t *testing.T) {
	for name, test := range map[string]struct {
		kubelet, runtime string
		want             bool
	}{
		"kind":                {"v1.36.3", "containerd://2.2.1", true},
		"first":               {"v1.35.0", "containerd://2.1.0", true},
		"of a cloud":          {"v1.35.2-eks-1234567", "containerd://2.1.4+unknown", true},
		"k3s":                 {"v1.36.0+k3s1", "containerd://2.2.0-k3s1", true},
		"OpenShift":           {"v1.35.1", "cri-o://1.35.0-2.rhaos4.22.git0123456.el9", true},
		"old kubelet":         {"v1.34.5", "containerd://2.2.1", false},
		"old containerd":      {"v1.36.3", "containerd://1.7.28", false},
		"old cri-o":           {"v1.36.3", "cri-o://1.32.1", false},
		"unknown runtime":     {"v1.36.3", "docker://29.0.0", false},
		"nothing known of it": {"", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			n := &corev1.Node{}
			n.Status.NodeInfo.KubeletVersion, n.Status.NodeInfo.ContainerRuntimeVersion = test.kubelet, test.runtime
			if lack := ImageVolume().nodeLack(n); (lack == "") != test.want {
				t.Errorf("lacks %q", lack)
			}
		})
	}
}
