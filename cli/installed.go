package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/internal/ownaddresses"
	"github.com/keyferry/keyferry/internal/policyflag"
	"github.com/keyferry/keyferry/webhook"
)

// webhookName is the name of the webhook's configuration, Deployment and container.
const (
	webhookName      = "keyferry-webhook"
	webhookContainer = "webhook"
)

// installed is how Keyferry is installed in a cluster.
type installed struct {
	client    client.Client
	namespace string
	flags     webhook.InjectionFlags
	config    injector.Config
	// providers is nil if there is no provider file.
	providers *clusterprofile.ProviderFile
}

// errNotInstalled says that a cluster has no webhook, whose answer could be given.
var errNotInstalled = errors.New("the cluster has no MutatingWebhookConfiguration " + webhookName)

// installedIn returns the namespace that Keyferry is installed in.
func installedIn(ctx context.Context, c client.Client) (string, error) {
	hooks := &admissionregistrationv1.MutatingWebhookConfiguration{}
	switch err := c.Get(ctx, types.NamespacedName{Name: webhookName}, hooks); {
	case apierrors.IsNotFound(err):
		return "", errNotInstalled
	case err != nil:
		return "", fmt.Errorf("reading MutatingWebhookConfiguration %s: %w", webhookName, err)
	case len(hooks.Webhooks) == 0 || hooks.Webhooks[0].ClientConfig.Service == nil:
		return "", fmt.Errorf("MutatingWebhookConfiguration %s contains no Service: install the chart without changes", webhookName)
	}
	return hooks.Webhooks[0].ClientConfig.Service.Namespace, nil
}

// findInstallation reads how the cluster's webhook is run.
func findInstallation(ctx context.Context, c client.Client) (*installed, error) {
	namespace, err := installedIn(ctx, c)
	if err != nil {
		return nil, err
	}
	name := types.NamespacedName{Namespace: namespace, Name: webhookName}
	deployment := &appsv1.Deployment{}
	if err := c.Get(ctx, name, deployment); err != nil {
		return nil, fmt.Errorf("reading Deployment %s: %w", name, err)
	}
	found := &installed{client: c, namespace: namespace}
	if err := found.readFlags(deployment.Spec.Template.Spec); err != nil {
		return nil, fmt.Errorf("Deployment %s: container %s: %w", name, webhookContainer, err)
	}
	found.config.Version = cmp.Or(deployment.Labels["app.kubernetes.io/version"], found.config.Version)
	if err := found.readProviders(ctx, name.Namespace, deployment.Spec.Template.Spec); err != nil {
		return nil, err
	}
	return found, nil
}

func (i *installed) readFlags(pod corev1.PodSpec) (err error) {
	n := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == webhookContainer })
	if n < 0 {
		return errors.New("there is none")
	}
	set := pflag.NewFlagSet(webhookContainer, pflag.ContinueOnError)
	set.ParseErrorsAllowlist.UnknownFlags = true // those for its server
	i.flags.AddTo(set)
	if err := set.Parse(pod.Containers[n].Args); err != nil {
		return err
	}
	i.config, _, err = i.flags.Config()
	return err
}

// readProviders reads the provider file in the ConfigMap that the webhook's Pods mount.
func (i *installed) readProviders(ctx context.Context, namespace string, pod corev1.PodSpec) error {
	if i.flags.ProviderFile == "" {
		return nil
	}
	dir, key := path.Split(i.flags.ProviderFile)
	name := types.NamespacedName{Namespace: namespace, Name: configMapAt(pod, path.Clean(dir))}
	configMap := &corev1.ConfigMap{}
	if err := i.client.Get(ctx, name, configMap); err != nil {
		return fmt.Errorf("reading the provider file in ConfigMap %s: %w", name, err)
	}
	var err error
	if i.providers, err = clusterprofile.ParseProviderFile([]byte(configMap.Data[key])); err != nil {
		return fmt.Errorf("ConfigMap %s: %s: %w", name, key, err)
	}
	return nil
}

// configMapAt returns the name of the ConfigMap that is mounted at a directory.
func configMapAt(pod corev1.PodSpec, dir string) string {
	for _, c := range pod.Containers {
		for _, mount := range c.VolumeMounts {
			for _, volume := range pod.Volumes {
				if path.Clean(mount.MountPath) == dir && volume.Name == mount.Name && volume.ConfigMap != nil {
					return volume.ConfigMap.Name
				}
			}
		}
	}
	return ""
}

// merged returns the installation's configuration, with what the flags say that have changed in
// given.
func (i *installed) merged(ctx context.Context, given injector.Config, changed func(flag string) bool, namespace string) (merged injector.Config, err error) {
	merged = i.config
	if changed("refresher-image") {
		merged.Image = given.Image
	}
	if changed("broker-url") {
		merged.BrokerURL = given.BrokerURL
	}
	if changed("restart-spread") {
		merged.RestartSpread = given.RestartSpread
	}
	if merged.BrokerAddress = given.BrokerAddress; !changed("broker-address") {
		merged.BrokerAddress = i.brokerAddress(ctx)
	}
	if merged.EnvFromFile = given.EnvFromFile; !changed("env-from-file") {
		if merged.EnvFromFile, err = i.has(ctx, webhook.EnvFromFile(), i.flags.EnvFromFile, namespace); err != nil {
			return merged, err
		}
	}
	if merged.ImageVolume = given.ImageVolume; !changed("image-volume") {
		merged.ImageVolume, err = i.has(ctx, webhook.ImageVolume(), i.flags.ImageVolumeFeature(), namespace)
	}
	return merged, err
}

// ownAddresses returns the addresses of this cluster that no target may have, which the webhook
// reads, too. It returns nil if you may not read them. namespace is that of the installation, and
// empty if there is none.
func ownAddresses(ctx context.Context, c client.Client, namespace string) *endpoint.Own {
	own := new(endpoint.Own)
	if ownaddresses.New(c, namespace, own).Read(ctx) != nil {
		return nil
	}
	return own
}

// operator returns what the installation's operator decides, with what the flags say that have
// changed in given.
func (i *installed) operator(given operator, changed func(flag string) bool) operator {
	merged := operator{cmp.Or(given.providers, i.providers), i.flags.Policy}
	policyflag.Override(&merged.policy, given.policy, changed)
	return merged
}

// brokerAddress returns the broker's ClusterIP; empty if it cannot be read.
func (i *installed) brokerAddress(ctx context.Context) string {
	host := strings.Split(strings.TrimPrefix(i.config.BrokerURL, "https://"), ".")
	service := &corev1.Service{}
	if len(host) < 2 || i.client.Get(ctx, types.NamespacedName{Namespace: host[1], Name: host[0]}, service) != nil {
		return ""
	}
	return service.Spec.ClusterIP
}

// has reports whether the cluster has a feature, as a flag of the webhook says or a probe finds
// out. namespace is for the probe's dry run.
func (i *installed) has(ctx context.Context, feature webhook.Feature, flag, namespace string) (bool, error) {
	if flag != webhook.Auto {
		return flag == "true", nil
	}
	lack, err := (&webhook.Probe{Feature: feature, Client: i.client, Namespace: namespace}).Lack(ctx)
	if err != nil {
		return false, fmt.Errorf("detecting whether the cluster has the feature %s: %w: set --%s=true or --%s=false", feature.Name, err, feature.Name, feature.Name)
	}
	return lack == "", nil
}
