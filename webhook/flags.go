package webhook

import (
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"

	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/policyflag"
	"github.com/keyferry/keyferry/internal/version"
)

// Auto is the value of feature flags that makes the webhook detect the feature.
const Auto = "auto"

// InjectionFlags are the flags of keyferry-webhook that configure injection. The command `keyferry
// inject` reads them from the Deployment of the webhook.
type InjectionFlags struct {
	RefresherImage     string
	RefresherPolicy    string
	RefresherResources string
	BrokerURL          string
	RestartSpread      time.Duration
	// EnvFromFile and ImageVolume are true, false or Auto.
	EnvFromFile, ImageVolume string
	ProviderFile             string
	// Policy is the same as that of the broker and the controller.
	Policy endpoint.Policy
}

// AddTo adds the flags to a set.
func (f *InjectionFlags) AddTo(set *pflag.FlagSet) {
	set.StringVar(&f.RefresherImage, "refresher-image", "", "image of the sidecar")
	set.StringVar(&f.RefresherPolicy, "refresher-image-pull-policy", "", "pull policy of the sidecar: Always, IfNotPresent or Never; empty: the default of Kubernetes")
	set.StringVar(&f.RefresherResources, "refresher-resources", "", "resources of the sidecar, as JSON ResourceRequirements; empty: built-in values")
	set.StringVar(&f.BrokerURL, "broker-url", "", "https URL of the broker's Service, from which sidecars request credentials")
	set.DurationVar(&f.RestartSpread, "restart-spread", injector.DefaultRestartSpread, "when a target's endpoint changes, Pods restart at random times within this duration")
	set.StringVar(&f.EnvFromFile, "env-from-file", Auto, "whether the API server and the nodes support variables from files and the restart of all containers: true, false, or auto (detect)")
	set.StringVar(&f.ImageVolume, "image-volume", Auto, "whether the API server and the nodes support image volumes: true, false, or auto (detect, if --provider-file is set)")
	set.StringVar(&f.ProviderFile, "provider-file", "", "JSON file with the credential plugins (the ClusterProfile provider file), re-read when it changes; empty: no plugins")
	policyflag.Add(set, &f.Policy)
}

// ImageVolumeFeature returns ImageVolume. It returns "false" instead of Auto if there is no
// provider file: then there are no plugins to mount.
func (f *InjectionFlags) ImageVolumeFeature() string {
	if f.ProviderFile == "" && f.ImageVolume == Auto {
		return "false"
	}
	return f.ImageVolume
}

// Config returns the configuration of injection and the broker's URL. The features and the broker's
// address are not set.
func (f *InjectionFlags) Config() (injector.Config, *url.URL, error) {
	fail := func(flag string, value any, expected string) (injector.Config, *url.URL, error) {
		return injector.Config{}, nil, fmt.Errorf("--%s=%v: expected %s", flag, value, expected)
	}
	for flag, value := range map[string]string{EnvFromFile().Name: f.EnvFromFile, ImageVolume().Name: f.ImageVolume} {
		if value != "true" && value != "false" && value != Auto {
			return fail(flag, value, "auto, true or false")
		}
	}
	broker, err := url.Parse(f.BrokerURL)
	if err != nil || broker.Scheme != "https" || broker.Hostname() == "" {
		return fail("broker-url", f.BrokerURL, "an https URL with a host")
	}
	policy := corev1.PullPolicy(f.RefresherPolicy)
	switch policy {
	case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		return fail("refresher-image-pull-policy", policy, "Always, IfNotPresent or Never")
	}
	resources := injector.DefaultResources()
	if f.RefresherResources != "" {
		resources = json.RawMessage(f.RefresherResources)
		if _, err := injector.ParseResources(f.RefresherResources); err != nil {
			return injector.Config{}, nil, fmt.Errorf("--refresher-resources: %w", err)
		}
	}
	if f.RestartSpread < 0 {
		return fail("restart-spread", f.RestartSpread, "0 or more")
	}
	return injector.Config{
		Image:           f.RefresherImage,
		ImagePullPolicy: policy,
		Resources:       resources,
		BrokerURL:       f.BrokerURL,
		RestartSpread:   f.RestartSpread,
		Version:         version.String(),
	}, broker, nil
}
