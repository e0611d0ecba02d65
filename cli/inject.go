package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/endpoint"
	"github.com/keyferry/keyferry/injector"
	"github.com/keyferry/keyferry/injector/jsonview"
	"github.com/keyferry/keyferry/internal/policyflag"
	"github.com/keyferry/keyferry/internal/version"
)

func newInject(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	i := injection{streams: streams}
	var files []string
	var targetFile, providerFile string
	var policy endpoint.Policy
	cmd := &cobra.Command{
		Use:   "inject -f FILE [--target-cluster FILE]",
		Short: "Print manifests as the webhook would change them",
		Long: strings.TrimSpace(`
Print manifests with everything that the webhook adds to annotated Pods. Use the command for a cluster without the
webhook, or to see the webhook's changes.

The command reads YAML or JSON with Pods, Lists and objects that have Pod templates: Deployments, StatefulSets,
DaemonSets, ReplicaSets, ReplicationControllers, Jobs, CronJobs, PodTemplates, Rollouts (Argo) and JobSets. The command
prints documents without annotations and other kinds unchanged. If an object of another kind has annotations, a warning
lists the annotations. If the input has an error, the command prints only errors.

With --target-cluster, the command needs no API server. The TargetClusters come from the file, and the configuration is
the chart's default configuration. Without --target-cluster, the command reads TargetClusters, ClusterProfiles and
Keyferry's configuration from the cluster. The configuration is in the Deployment keyferry-webhook, the ClusterProfile
provider file and the Service of the broker. Flags take precedence.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  # Offline, into a pipe
  keyferry inject -f deployment.yaml --target-cluster tenant-1.yaml | kubectl apply -f -

  # With the TargetClusters of the cluster, from standard input
  kustomize build . | keyferry inject -f -
`, "\n"),
		Args: cobra.NoArgs,
		RunE: failing(func(cmd *cobra.Command, _ []string) error {
			var err error
			if i.namespace, _, err = cluster.ToRawKubeConfigLoader().Namespace(); err != nil {
				return err
			}
			providers, err := clusterprofile.Open(providerFile)
			if err != nil {
				return err
			}
			if targetFile != "" {
				i.targets, err = targetsOfFile(targetFile, i.namespace, operator{providers.Current(), policy})
			} else {
				err = i.connect(cmd, cluster, operator{providers.Current(), policy})
			}
			if err != nil {
				return err
			}
			return i.run(cmd.Context(), files)
		}),
	}
	flags := cmd.Flags()
	flags.StringSliceVarP(&files, "filename", "f", nil, "file with manifests, or - for standard input; repeatable")
	flags.StringVar(&targetFile, "target-cluster", "", "file with TargetClusters; no API server is needed")
	flags.StringVar(&providerFile, "provider-file", "", "ClusterProfile provider file (JSON) with the credential plugins of the installation")
	policyflag.Add(flags, &policy)
	addInjectionFlags(flags, &i.config)
	_ = cmd.MarkFlagRequired("filename") // it is there
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	_ = cmd.MarkFlagFilename("target-cluster", "yaml", "yml", "json")
	return cmd
}

// addInjectionFlags fills in what the chart injects by default, and adds the flags that change it.
func addInjectionFlags(flags *pflag.FlagSet, config *injector.Config) {
	config.ImagePullPolicy, config.Resources, config.Version = injector.DefaultPullPolicy, injector.DefaultResources(), version.String()
	flags.BoolVar(&config.ImageVolume, "image-volume", false, "the API server and all nodes support image volumes (Kubernetes 1.35); otherwise plugins are copied into Pods")
	flags.StringVar(&config.Image, "refresher-image", defaultImage(version.String()), "image of the sidecar")
	flags.StringVar(&config.BrokerURL, "broker-url", injector.DefaultBrokerURL, "https URL of the broker, from which sidecars request credentials")
	flags.StringVar(&config.BrokerAddress, "broker-address", "", "ClusterIP of the broker, for Pods whose DNS does not resolve Services")
	flags.BoolVar(&config.EnvFromFile, "env-from-file", false, "the API server and all nodes support variables from files and the restart of all containers (Kubernetes 1.36)")
	flags.DurationVar(&config.RestartSpread, "restart-spread", injector.DefaultRestartSpread, "when a target's endpoint changes, Pods restart at random times within this duration")
}

// defaultImage is the refresher's of the same version. A version between two releases may have a
// plus sign, which a tag may not.
func defaultImage(tag string) string {
	return injector.DefaultRepository + ":" + strings.ReplaceAll(tag, "+", "-")
}

// targets returns the cluster that annotations ask for, the first, as the injector needs it, with
// warnings. further is set for a cluster beside the first one of a Pod.
type targets func(ctx context.Context, want injector.Annotations, further bool) (injector.Target, []string, error)

// injection is one run of the command.
type injection struct {
	streams   genericiooptions.IOStreams
	config    injector.Config
	targets   targets
	namespace string // of objects that name none
}

// connect has TargetClusters read from the cluster, and how Keyferry is installed there. What flags
// say overrides that.
func (i *injection) connect(cmd *cobra.Command, cluster *genericclioptions.ConfigFlags, given operator) error {
	c, err := targetsClient(cluster)
	if err != nil {
		return err
	}
	found, err := findInstallation(cmd.Context(), c)
	if errors.Is(err, errNotInstalled) {
		given.policy.Own = ownAddresses(cmd.Context(), c, "")
		i.targets = fleet{c, given}.target
		_, _ = fmt.Fprintf(i.streams.ErrOut, "warning: %v: the command uses the defaults of this version of the chart\n", err)
		return nil
	}
	if err == nil {
		i.config, err = found.merged(cmd.Context(), i.config, cmd.Flags().Changed, i.namespace)
	}
	if err != nil {
		return fmt.Errorf("reading the configuration of the installation: %w: get permission to read this object, or use --target-cluster with the chart's defaults", err)
	}
	given = found.operator(given, cmd.Flags().Changed)
	given.policy.Own = ownAddresses(cmd.Context(), c, found.namespace)
	i.targets = fleet{c, given}.target
	return nil
}

// run injects all documents of all files. It prints only once it knows that nothing is wrong: half
// of the manifests in a pipe to kubectl would be worse than none.
func (i *injection) run(ctx context.Context, files []string) error {
	var out bytes.Buffer
	var problems []error
	for _, file := range files {
		text, err := readFile(i.streams.In, file)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		for n, doc := range split(text) {
			injected, err := i.document(ctx, doc, fmt.Sprintf("%s: document %d", file, n+1))
			if err != nil {
				problems = append(problems, err)
				continue
			}
			write(&out, injected, n == 0)
		}
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	_, err := i.streams.Out.Write(out.Bytes())
	return err
}

// readFile reads a file that the user names; - is stdin.
func readFile(stdin io.Reader, file string) ([]byte, error) {
	if file == "-" {
		text, err := io.ReadAll(stdin)
		if err != nil {
			return nil, fmt.Errorf("reading standard input: %w", err)
		}
		return text, nil
	}
	return os.ReadFile(file) // #nosec G304 -- that is what the user asks for
}

// write appends a document, and what it takes to tell the first one of a file from those before it.
func write(out *bytes.Buffer, doc []byte, first bool) {
	if before := out.Bytes(); len(before) > 0 && before[len(before)-1] != '\n' {
		out.WriteByte('\n')
	}
	if first && out.Len() > 0 && !isSeparator(firstLine(doc)) {
		out.WriteString("---\n")
	}
	out.Write(doc)
}

// document returns a document injected, or the very same one where there is nothing to do. where is
// for messages.
func (i *injection) document(ctx context.Context, doc document, where string) ([]byte, error) {
	root, err := doc.parse()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	if root == nil {
		return doc.text, nil
	}
	all, err := manifests(root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	var problems []error
	changed := false
	for _, m := range all {
		injected, err := i.manifest(ctx, m, where)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %s: %w", where, m, err))
		}
		changed = changed || injected
	}
	if err := errors.Join(problems...); err != nil || !changed {
		return doc.text, err
	}
	return doc.print(root)
}

// target returns all clusters that annotations ask for, with warnings.
func (i *injection) target(ctx context.Context, want injector.Annotations) (target injector.Target, warnings []string, err error) {
	one := func(annotation string, want injector.Annotations, further bool) (injector.Target, error) {
		found, warned, err := i.targets(ctx, want, further)
		for _, warning := range warned {
			warnings = append(warnings, "annotation "+annotation+": "+warning)
		}
		if err != nil {
			return found, fmt.Errorf("annotation %s: %w", annotation, err)
		}
		return found, nil
	}
	if want.Cluster.Name != "" {
		if target, err = one(want.ClusterAnnotation(), want, false); err != nil {
			return target, nil, err
		}
	}
	for _, name := range want.Clusters {
		further, err := one(injector.AnnotationClusters, injector.Annotations{Cluster: name}, true)
		if err != nil {
			return target, nil, err
		}
		target.Further = append(target.Further, further)
	}
	return target, warnings, nil
}

// manifest injects the Pod templates of an object, or says why it leaves annotations as they are.
// It reports whether anything has changed.
func (i *injection) manifest(ctx context.Context, m manifest, where string) (changed bool, err error) {
	if err := m.checkPlaces(); err != nil {
		return false, err
	}
	for _, warning := range m.unread() {
		i.warn(where, warning)
	}
	if !m.isInjectable {
		return false, nil
	}
	var problems []error
	for _, template := range m.object.Templates {
		ops, err := i.template(ctx, m, template.JSON, where)
		if err == nil && len(ops) > 0 {
			changed = true
			err = apply(descend(m.node, template.Path), ops)
		}
		problems = append(problems, err)
	}
	return changed, errors.Join(problems...)
}

// template returns the operations that inject a Pod template, and warns about what the user should
// know.
func (i *injection) template(ctx context.Context, m manifest, raw jsonview.Valid, where string) ([]injector.Operation, error) {
	pod, err := injector.ReadPod(raw)
	if err != nil {
		return nil, err
	}
	want, err := injector.ParseAnnotations(pod.Metadata.Annotations, cmp.Or(m.namespace, i.namespace))
	if err != nil || want.Empty() {
		return nil, err
	}
	target, warnings, err := i.target(ctx, want)
	if err != nil {
		return nil, err
	}
	result, err := injector.Inject(pod, want, target, i.config)
	for _, warning := range append(warnings, result.Warnings...) {
		i.warn(where, fmt.Sprintf("%s: %s", m, warning))
	}
	return result.Operations, err
}

func (i *injection) warn(where, warning string) {
	_, _ = fmt.Fprintf(i.streams.ErrOut, "warning: %s: %s\n", where, warning)
}
