// Replay writes down what Istio's injector makes of a Pod before and after Keyferry's, for
// injector's tests:
//
//	cd tools/replay && go run . ../../injector/testdata/replay
//
// It runs Istio's own code and template, in the version that go.mod pins, with the chart's default
// values, as istioctl kube-inject does.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"istio.io/istio/manifests"
	"istio.io/istio/pilot/pkg/features"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/kube/inject"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const (
	module = "istio.io/istio"
	// chart is that of istiod, in manifests.FS.
	chart = "charts/istio-control/istio-discovery/"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "replay:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("say the directory of the Pods: go run . ../../injector/testdata/replay")
	}
	istio, err := newInjector()
	if err != nil {
		return err
	}
	for variant, mode := range map[string]features.NativeSidecarMode{"istio": features.NativeSidecarModeDisabled, "istio-native": features.NativeSidecarModeEnabled} {
		features.EnableNativeSidecars = mode
		for _, name := range []string{"app.yaml", "app.keyferry.yaml"} {
			if err := istio.replay(filepath.Join(args[0], name), filepath.Join(args[0], variant, name)); err != nil {
				return fmt.Errorf("%s with %s: %w", name, variant, err)
			}
		}
	}
	return nil
}

// injector is Istio's.
type injector struct {
	templates inject.Templates
	values    inject.ValuesConfig
	version   string
}

// newInjector makes of the chart what the chart makes of itself: the ConfigMap
// istio-sidecar-injector.
func newInjector() (*injector, error) {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, errors.New("this program does not know what it is made of")
	}
	i := &injector{}
	for _, dep := range build.Deps {
		if dep.Path == module {
			i.version = dep.Version
		}
	}
	template, err := fs.ReadFile(manifests.FS, chart+"files/injection-template.yaml")
	if err != nil {
		return nil, err
	}
	if i.templates, err = inject.ParseTemplates(inject.RawTemplates{inject.SidecarTemplateName: string(template)}); err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(manifests.FS, chart+"values.yaml")
	if err != nil {
		return nil, err
	}
	var values struct {
		Defaults map[string]any `json:"_internal_defaults_do_not_set"`
	}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, err
	}
	all := values.Defaults
	raw, err := json.Marshal(map[string]any{
		"global": all["global"], "sidecarInjectorWebhook": all["sidecarInjectorWebhook"], "revision": all["revision"],
		"pilot": map[string]any{"cni": all["cni"], "env": all["env"]},
	})
	if err != nil {
		return nil, err
	}
	i.values, err = inject.NewValuesConfig(string(raw))
	return i, err
}

// replay injects the Pod in one file into another.
func (i *injector) replay(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	pod := new(corev1.Pod)
	if err := yaml.Unmarshal(text, pod); err != nil {
		return err
	}
	refused := func(warning string) { err = errors.Join(err, errors.New(warning)) }
	injected, failed := inject.IntoObject(nil, i.templates, i.values, "", mesh.DefaultMeshConfig(), pod, refused)
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	out, err := yaml.Marshal(injected)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, append([]byte("# Made by tools/replay with "+module+" "+i.version+".\n"), out...), 0o644)
}
