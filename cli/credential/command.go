package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/keyferry/keyferry/clusterprofile"
	"github.com/keyferry/keyferry/refresher"
)

// Of all that a credential takes. Clients wait for a plugin as long as it takes.
const timeout = 30 * time.Second

const long = `Issue one credential for a TargetCluster, and print the credential.

With -f, the command needs neither an API server nor Keyferry. FILE contains one TargetCluster, and the TargetCluster's
Secrets (with data or stringData) and ClusterProfile. With identity Ambient, the command uses your own cloud identity.
--provider-file contains the plugins.

The target may reject an issued credential. With --verify, the command sends a SelfSubjectReview with the credential to the
target, writes the user name to standard error, and fails if the target rejects the credential.

Without -f, the command requests the credential from the broker, like the sidecar. The command must run in a Pod with a
volume that contains the Pod's projected token and the broker's ca.crt. The Pod's ServiceAccount needs the verb use on
the TargetCluster.

The command is also a credential plugin for kubectl, client-go and consumers of ClusterProfiles. If KUBERNETES_EXEC_INFO
is set, the command answers in the requested apiVersion. Without --target, the command reads the TargetCluster from the
cluster's extension client.authentication.k8s.io/exec in the kubeconfig or ClusterProfile. The extension contains
{"targetCluster": "NAMESPACE/NAME"}. The command fails if the TargetCluster's server is not the client's server.

Exit codes:
  0  done
  1  failed; standard error contains the reason, and standard output is empty
  2  wrong usage`

const example = `  # From a file with a TargetCluster and its Secret. Print the credential if the target accepts it
  keyferry credential -f tenant-1.yaml --verify

  # From the cluster into a kubeconfig that needs no other file
  kubectl get targetcluster/tenant-1 secret/tenant-1 -n fleet -o yaml | keyferry credential -f - -o kubeconfig > tenant-1.kubeconfig

  # In a Pod, from the broker
  curl -H "Authorization: Bearer $(keyferry credential --target fleet/tenant-1 -o token)" …

  # As kubectl's plugin
  kubectl config set-credentials tenant-1 --exec-api-version=client.authentication.k8s.io/v1 --exec-interactive-mode=Never \
    --exec-provide-cluster-info --exec-command=keyferry --exec-arg=credential --exec-arg=-f --exec-arg=/home/me/tenant-1.yaml`

type command struct {
	streams genericiooptions.IOStreams
	// namespace is of objects in the file that name none; it may be empty.
	namespace *string

	file    string
	output  string
	target  string
	account string
	plugins string
	verify  bool
	broker  refresher.Config

	// Of flags and KUBERNETES_EXEC_INFO:
	info           ExecInfo
	wanted         types.NamespacedName // zero: whatever the file has
	serviceAccount types.NamespacedName
}

// Command returns the command. Errors of its RunE are failures, all others are of usage.
func Command(streams genericiooptions.IOStreams, namespace *string) *cobra.Command {
	c := &command{streams: streams, namespace: namespace}
	cmd := &cobra.Command{
		Use:     "credential [-f FILE] [--target NAMESPACE/NAME]",
		Short:   "Issue one credential: offline from a file, from the broker, or as a credential plugin",
		Long:    long,
		Example: example,
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return c.complete() },
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&c.file, "filename", "f", "", "file with one TargetCluster and its Secrets; - is standard input")
	flags.StringVarP(&c.output, "output", "o", formJSON, "json or yaml (an ExecCredential), token, or kubeconfig (complete, with the credential)")
	flags.StringVar(&c.target, "target", "", "the TargetCluster, as NAMESPACE/NAME")
	flags.StringVar(&c.account, "service-account", "", "with -f: ServiceAccount for which the credential is issued, as NAMESPACE/NAME")
	flags.StringVar(&c.plugins, "provider-file", "", "with -f: provider file (JSON) with the plugins for access type Exec")
	flags.BoolVar(&c.verify, "verify", false, "send a SelfSubjectReview with the credential to the target, and fail if the target rejects the credential")
	flags.StringVar(&c.broker.Broker, "broker", "https://keyferry-broker.keyferry-system.svc", "URL of the broker")
	flags.StringVar(&c.broker.IdentityDir, "identity-dir", "/var/run/secrets/keyferry.dev/identity", "directory with this Pod's token for the broker and the broker's ca.crt")
	cmd.MarkFlagsMutuallyExclusive("filename", "broker")
	cmd.MarkFlagsMutuallyExclusive("filename", "identity-dir")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json") // they are there
	_ = cmd.MarkFlagFilename("provider-file", "json")
	_ = cmd.MarkFlagDirname("identity-dir")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{
		formJSON + "\tan ExecCredential", formYAML + "\tthe same as YAML", formToken + "\tthe token alone", formKubeconfig + "\ta whole kubeconfig",
	}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// complete reads flags and environment. Its errors are of usage.
func (c *command) complete() (err error) {
	if !slices.Contains([]string{formJSON, formYAML, formToken, formKubeconfig}, c.output) {
		return fmt.Errorf("--output is %q: use json, yaml, token or kubeconfig", c.output)
	}
	if c.info, err = ParseExecInfo(os.Getenv(execInfoVariable)); err != nil {
		return err
	}
	switch {
	case c.target != "":
		c.wanted, err = parseName("--target", c.target)
	case c.info.TargetCluster != "":
		c.wanted, err = parseName(execInfoVariable+": spec.cluster.config.targetCluster", c.info.TargetCluster)
	case c.file == "":
		err = errors.New("the TargetCluster is missing: use --target NAMESPACE/NAME to ask the broker, or -f FILE to issue offline")
	}
	switch {
	case err != nil:
		return err
	case c.file == "" && c.account != "":
		return errors.New("--service-account requires -f: without -f, the broker issues the credential to the ServiceAccount of this Pod")
	case c.file == "" && c.plugins != "":
		return errors.New("--provider-file requires -f: the broker has its own provider file")
	case c.account == "":
		return nil
	}
	c.serviceAccount, err = parseName("--service-account", c.account)
	return err
}

func parseName(what, text string) (types.NamespacedName, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return types.NamespacedName{}, fmt.Errorf("%s is %.128q: write it as NAMESPACE/NAME", what, text)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}

func (c *command) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	issued, err := c.issue(ctx)
	if err != nil {
		return err
	}
	if err := c.info.check(issued); err != nil {
		return err
	}
	if c.verify {
		user, err := issued.Verify(ctx)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(c.streams.ErrOut, "verified: %s accepts the credential as user %q\n", issued.Endpoint.Server, user)
	}
	return issued.write(c.streams.Out, c.output, c.info.APIVersion)
}

func (c *command) issue(ctx context.Context) (Credential, error) {
	if c.file != "" {
		return c.fromFile(ctx)
	}
	issued, err := FromBroker(ctx, c.broker, c.wanted)
	if errors.Is(err, os.ErrNotExist) {
		return Credential{}, fmt.Errorf("%w: run the command in a Pod that has both, or use -f FILE to issue offline", err)
	}
	return issued, err
}

func (c *command) fromFile(ctx context.Context) (Credential, error) {
	name, text := "standard input", c.streams.In
	if c.file != "-" {
		file, err := os.Open(c.file)
		if err != nil {
			return Credential{}, err
		}
		defer file.Close()
		name, text = c.file, io.Reader(file)
	}
	namespace := *c.namespace
	if namespace == "" {
		namespace = "default"
	}
	file, err := ReadFile(text, namespace)
	if err != nil {
		return Credential{}, fmt.Errorf("%s: %w", name, err)
	}
	if has := file.Target(); c.wanted.Name != "" && c.wanted != has {
		return Credential{}, fmt.Errorf("%s has TargetCluster %s, but %s is requested: use the file of this TargetCluster", name, has, c.wanted)
	}
	plugins, err := clusterprofile.Open(c.plugins)
	if err != nil {
		return Credential{}, err
	}
	issued, err := file.Issue(ctx, c.serviceAccount, plugins.Current())
	if err != nil {
		return Credential{}, fmt.Errorf("%s: %w", name, err)
	}
	return issued, nil
}
