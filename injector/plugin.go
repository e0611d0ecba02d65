package injector

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// pluginDir is where the refresher finds the plugin: all of its image, or only the program.
	pluginDir = "/opt/keyferry/plugin"
	// copier is the refresher's own program there. It needs nothing else to run, so it does in any
	// image.
	copier = pluginDir + "/keyferry-copier"
	// copyCommand tells the copiers' arguments from any other's.
	copyCommand = "copy"
	// usualAPIVersion is what the refresher takes a plugin to speak if its arguments say nothing else.
	usualAPIVersion = "client.authentication.k8s.io/v1"
)

// Plugin is a program that issues the credential for a target in the Pod, with the Pod's own
// identity. What is in it comes from the operator, not from whoever creates the Pod.
type Plugin struct {
	// Image has the program, and Command is its absolute path there.
	Image   string
	Command string
	Args    []string
	// Env has literal values only.
	Env []corev1.EnvVar
	// APIVersion of the ExecCredential that it prints.
	APIVersion string
	// ProvideClusterInfo says that it is told of the cluster.
	ProvideClusterInfo bool
}

// pluginArgs are the refresher's arguments for its plugin.
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

// copied is where the program is without its image. It keeps its name, which some programs go by.
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

// literal keeps the kubelet from expanding $(NAME) in a text, which no other user of plugins does.
func literal(text string) string {
	return strings.ReplaceAll(text, "$", "$$")
}

// copiers are the init containers by which the plugin gets out of its image, where that cannot be a
// volume. There may be no shell in it, nor anything else than the plugin, so the refresher's own
// program is brought along to copy it.
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

// pluginVolume is no volume in memory where the plugin is copied: that would count against the
// limits of whoever copies, and plugins are large.
func (in *injection) pluginVolume() corev1.Volume {
	volume := corev1.Volume{Name: PluginVolume}
	if in.cfg.ImageVolume {
		volume.Image = &corev1.ImageVolumeSource{Reference: in.target.Plugin.Image}
	} else {
		volume.EmptyDir = &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(512<<20, resource.BinarySI)}
	}
	return volume
}
