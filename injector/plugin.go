package injector

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// pluginDir is the directory of the plugin in the refresher's container. It contains the plugin's
	// whole image, or only the program.
	pluginDir = "/opt/keyferry/plugin"
	// copier is the path of the copied refresher program. It is static, so it runs in any image.
	copier = pluginDir + "/keyferry-copier"
	// copyCommand is the first argument of the init containers that copy the plugin.
	copyCommand = "copy"
	// usualAPIVersion is the refresher's default for the version of the plugin's ExecCredential.
	usualAPIVersion = "client.authentication.k8s.io/v1"
)

// Plugin is a program that issues the credential for a target in the Pod, with the Pod's own
// identity. It is configured by the operator, not by the user who creates the Pod.
type Plugin struct {
	// Image contains the program. Command is the program's absolute path in the image.
	Image   string
	Command string
	Args    []string
	// Env contains only literal values.
	Env []corev1.EnvVar
	// APIVersion of the ExecCredential that the program prints.
	APIVersion string
	// ProvideClusterInfo passes the cluster's endpoint and CA to the program.
	ProvideClusterInfo bool
}

// pluginArgs returns the refresher's arguments for the plugin.
func (in *injection) pluginArgs() []string {
	p := in.target.Plugin
	if p == nil {
		return nil
	}
	args := []string{"--plugin"}
	if p.APIVersion != usualAPIVersion {
		args = append(args, "--plugin-api-version="+p.APIVersion)
	}
	if p.ProvideClusterInfo {
		args = append(args, "--plugin-cluster-info")
	}
	program := pluginDir + p.Command
	if !in.cfg.ImageVolume {
		program = p.copied()
	}
	args = append(args, "--", literal(program))
	for _, arg := range p.Args {
		args = append(args, literal(arg))
	}
	return args
}

// copied returns the path of the copied program. The file name is the original one, because some
// programs depend on their name.
func (p *Plugin) copied() string {
	return pluginDir + "/" + path.Base(p.Command)
}

func (p *Plugin) env() []corev1.EnvVar {
	env := slices.Clone(p.Env)
	for i := range env {
		env[i].Value = literal(env[i].Value)
	}
	return env
}

// literal escapes a text, so that the kubelet does not expand $(NAME) in it. Other callers of
// credential plugins expand nothing either.
func literal(text string) string {
	return strings.ReplaceAll(text, "$", "$$")
}

// copiers returns the init containers that copy the plugin from its image, for clusters that cannot
// mount an image as a volume. The plugin's image may have no shell or other tools, so the first
// container copies the refresher's program into the volume, and the second container runs it in the
// plugin's image.
func (in *injection) copiers() []*container {
	p := in.target.Plugin
	if p == nil || in.cfg.ImageVolume {
		return nil
	}
	first, second := in.copier(CopierContainer, "/refresher", "/refresher", copier), in.copier(PluginContainer, copier, p.Command, p.copied())
	first.Image, first.ImagePullPolicy = in.cfg.Image, in.cfg.ImagePullPolicy
	second.Image = p.Image
	return []*container{first, second}
}

func (in *injection) copier(name, command, from, to string) *container {
	return &container{Resources: in.resources, Container: corev1.Container{
		Name:                     name,
		Command:                  []string{command},
		Args:                     []string{copyCommand, literal(from), literal(to)},
		VolumeMounts:             []corev1.VolumeMount{{Name: PluginVolume, MountPath: pluginDir}},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext:          in.securityContext(),
	}}
}

// pluginVolume returns the volume with the plugin. A copied plugin is not in memory: plugins are
// large, and a volume in memory counts against the memory limit of the container that writes it.
func (in *injection) pluginVolume() corev1.Volume {
	volume := corev1.Volume{Name: PluginVolume}
	if in.cfg.ImageVolume {
		volume.Image = &corev1.ImageVolumeSource{Reference: in.target.Plugin.Image}
	} else {
		volume.EmptyDir = &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(512<<20, resource.BinarySI)}
	}
	return volume
}
