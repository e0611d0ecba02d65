package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/terminal"
)

// event is an Event of Keyferry, or about a Pod that it denied.
type event struct {
	LastSeen  time.Time `json:"lastSeen"`
	Count     int32     `json:"count"`
	Type      string    `json:"type"`
	Reason    string    `json:"reason"`
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Message   string    `json:"message"`
}

func newEvents(streams genericiooptions.IOStreams, cluster *genericclioptions.ConfigFlags) *cobra.Command {
	output := outputText
	everywhere := false
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show Keyferry's Events, and Events about Pods that it denied",
		Long: strings.TrimSpace(`
Show the Events that Keyferry recorded in a namespace, and Events about Pods that it denied. The newest Event is the
last. API servers
keep Events for an hour by default.

You need permission to list Events.
`) + "\n\n" + exitCodes,
		Example: strings.Trim(`
  keyferry events -n fleet
  keyferry events -A -o json
`, "\n"),
		Args: cobra.NoArgs,
		RunE: failing(func(cmd *cobra.Command, _ []string) error {
			namespace, _, err := cluster.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			if everywhere {
				namespace = metav1.NamespaceAll
			}
			_, c, err := connect(cluster)
			if err != nil {
				return err
			}
			found, err := readEvents(cmd.Context(), c, namespace)
			if err != nil {
				return err
			}
			report := struct {
				Events []event `json:"events"`
			}{found}
			return output.print(streams.Out, report, func() error {
				return writeEvents(streams.Out, terminal.PaletteFor(streams.Out), found, time.Now())
			})
		}),
	}
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "show Events of all namespaces")
	output.addTo(cmd)
	return cmd
}

// readEvents lists Events in chunks, since a cluster has many that are not Keyferry's.
func readEvents(ctx context.Context, c client.Client, namespace string) ([]event, error) {
	const chunk = 500
	found := []event{}
	for next := ""; ; {
		list := &eventsv1.EventList{}
		if err := c.List(ctx, list, client.InNamespace(namespace), client.Limit(chunk), client.Continue(next)); err != nil {
			return nil, fmt.Errorf("reading Events: %w", err)
		}
		for i := range list.Items {
			if isOurs(&list.Items[i]) {
				found = append(found, newEvent(&list.Items[i]))
			}
		}
		if next = list.Continue; next == "" {
			break
		}
	}
	slices.SortStableFunc(found, func(a, b event) int { return a.LastSeen.Compare(b.LastSeen) })
	return found, nil
}

// isOurs reports whether Keyferry recorded an Event, or denied the Pod that it is about.
func isOurs(e *eventsv1.Event) bool {
	return strings.HasPrefix(e.ReportingController, "keyferry-") ||
		e.Reason == "FailedCreate" && (strings.Contains(e.Note, "keyferry.dev") || strings.Contains(e.Note, "keyferry-guard"))
}

func newEvent(e *eventsv1.Event) event {
	at := event{
		LastSeen: e.EventTime.Time, Count: max(e.DeprecatedCount, 1), Type: e.Type, Reason: e.Reason,
		Kind: e.Regarding.Kind, Namespace: e.Regarding.Namespace, Name: e.Regarding.Name, Message: e.Note,
	}
	switch {
	case e.Series != nil:
		at.LastSeen, at.Count = e.Series.LastObservedTime.Time, e.Series.Count
	case !e.DeprecatedLastTimestamp.IsZero():
		at.LastSeen = e.DeprecatedLastTimestamp.Time
	}
	return at
}

func writeEvents(out io.Writer, palette terminal.Palette, found []event, now time.Time) error {
	if len(found) == 0 {
		_, err := io.WriteString(out, "there are no Events of Keyferry\n")
		return err
	}
	const kind = 1 // column
	table := terminal.Table{
		Rows: [][]string{{"LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"}},
		Paint: func(row, column int, text string) string {
			switch {
			case row == 0:
				return palette.Head(text)
			case column == kind && text == "Warning":
				return palette.Bad(text)
			}
			return text
		},
	}
	for _, e := range found {
		seen := duration.HumanDuration(now.Sub(e.LastSeen))
		if e.Count > 1 {
			seen += fmt.Sprintf(" (x%d)", e.Count)
		}
		object := e.Kind + " " + strings.TrimPrefix(e.Namespace+"/"+e.Name, "/")
		table.Rows = append(table.Rows, []string{seen, cmp.Or(e.Type, "-"), e.Reason, object, e.Message})
	}
	var text strings.Builder
	table.AppendTo(&text)
	_, err := io.WriteString(out, text.String())
	return err
}
