package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
)

// maxLogLine is the longest line of a log, in bytes. The rest of a longer line is left out.
const maxLogLine = 64 << 10

// logs is one call of keyferry logs.
type logs struct {
	streams genericiooptions.IOStreams
	cluster *genericclioptions.ConfigFlags

	component string
	follow    bool
	since     time.Duration
	tail      int64
}

func newLogs(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	l := &logs{streams: streams, cluster: cluster}
	components := []string{"broker", "controller", "webhook"}
	cmd := &cobra.Command{
		Use:   "logs [broker | controller | webhook]",
		Short: "Print the logs of Keyferry's Pods",
		Long: strings.TrimSpace(`
Print the logs of all Pods of Keyferry, or of one of its components. Each line begins with the name of the Pod that
wrote the line.

You need permission to get the MutatingWebhookConfiguration keyferry-webhook, to list Pods in Keyferry's namespace, and
to get their logs.
To print the log of a sidecar, use kubectl logs POD -c keyferry-refresher.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  keyferry logs
  keyferry logs broker --since 10m
  keyferry logs controller --follow
`, "\n"),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && !slices.Contains(components, args[0]) {
				return fmt.Errorf("%q is not a component: %s [%s]", strings.Join(args, " "), cmd.CommandPath(), strings.Join(components, " | "))
			}
			return nil
		},
		ValidArgsFunction: firstArgument(cobra.FixedCompletions(components, cobra.ShellCompDirectiveNoFileComp)),
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				l.component = args[0]
			}
			return l.run(cmd.Context())
		}),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&l.follow, "follow", "f", false, "also print new lines, until Ctrl-C")
	flags.DurationVar(&l.since, "since", 0, "print only lines that are newer than this duration, such as 10m (default: all lines)")
	flags.Int64Var(&l.tail, "tail", -1, "print only this number of lines of each Pod; -1: all")
	return cmd
}

func (l *logs) run(ctx context.Context) error {
	cfg, c, err := connect(l.cluster)
	if err != nil {
		return err
	}
	namespace, err := installedIn(ctx, c)
	if err != nil {
		return err
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	selector := "app.kubernetes.io/part-of=keyferry"
	if l.component != "" {
		selector += ",app.kubernetes.io/component=" + l.component
	}
	pods, err := clients.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return fmt.Errorf("reading Pods in namespace %s: %w", namespace, err)
	}
	if len(pods.Items) == 0 {
		return fmt.Errorf("there are no Pods with the labels %s in namespace %s: keyferry check reports what is wrong", selector, namespace)
	}
	out := &lineWriter{out: l.streams.Out}
	read := func(name string) error {
		stream, err := clients.CoreV1().Pods(namespace).GetLogs(name, l.options()).Stream(ctx)
		if err != nil {
			return fmt.Errorf("reading the log of Pod %s/%s: %w", namespace, name, err)
		}
		defer stream.Close()
		return out.copyLines(name, stream)
	}
	problems := make([]error, len(pods.Items))
	var all sync.WaitGroup
	for n := range pods.Items {
		name := pods.Items[n].Name
		if !l.follow {
			problems[n] = read(name)
			continue
		}
		all.Go(func() { problems[n] = read(name) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil // Ctrl-C ends it
	}
	return errors.Join(problems...)
}

func (l *logs) options() *corev1.PodLogOptions {
	options := &corev1.PodLogOptions{Follow: l.follow}
	if l.since > 0 {
		seconds := int64(max(l.since, time.Second) / time.Second)
		options.SinceSeconds = &seconds
	}
	if l.tail >= 0 {
		options.TailLines = &l.tail
	}
	return options
}

// lineWriter writes whole lines of several logs.
type lineWriter struct {
	mutex sync.Mutex
	out   io.Writer
}

// copyLines writes each line with the name of its Pod.
func (w *lineWriter) copyLines(pod string, log io.Reader) error {
	lines := bufio.NewReaderSize(log, maxLogLine)
	for {
		line, isPrefix, err := lines.ReadLine()
		if isPrefix {
			line = slices.Clone(line)
		}
		for isPrefix && err == nil {
			_, isPrefix, err = lines.ReadLine()
		}
		if len(line) > 0 {
			if err := w.write(pod, line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the log of Pod %s: %w", pod, err)
		}
	}
}

func (w *lineWriter) write(pod string, line []byte) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	_, err := fmt.Fprintf(w.out, "%s: %s\n", pod, line)
	return err
}
