// Package events lists the Events of Keyferry, and Events about Pods that it denied.
package events

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyferry/keyferry/cli/terminal"
)

// Event is an Event of Keyferry, or about a Pod that it denied.
type Event struct {
	LastSeen  time.Time `json:"lastSeen"`
	Count     int32     `json:"count"`
	Type      string    `json:"type"`
	Reason    string    `json:"reason"`
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Message   string    `json:"message"`
}

// Read returns the Events of Keyferry in a namespace, the newest last; of all namespaces if it is
// empty. It lists them in chunks, since a cluster has many that are not Keyferry's.
func Read(ctx context.Context, reader client.Reader, namespace string) ([]Event, error) {
	const chunk = 500
	found := []Event{}
	for next := ""; ; {
		list := &eventsv1.EventList{}
		if err := reader.List(ctx, list, client.InNamespace(namespace), client.Limit(chunk), client.Continue(next)); err != nil {
			return nil, fmt.Errorf("reading Events: %w", err)
		}
		for i := range list.Items {
			if IsOurs(&list.Items[i]) {
				found = append(found, describe(&list.Items[i]))
			}
		}
		if next = list.Continue; next == "" {
			break
		}
	}
	slices.SortStableFunc(found, func(a, b Event) int { return a.LastSeen.Compare(b.LastSeen) })
	return found, nil
}

// IsOurs reports whether Keyferry recorded an Event, or denied the Pod that it is about.
func IsOurs(e *eventsv1.Event) bool {
	return strings.HasPrefix(e.ReportingController, "keyferry-") ||
		e.Reason == "FailedCreate" && (strings.Contains(e.Note, "keyferry.dev") || strings.Contains(e.Note, "keyferry-guard"))
}

func describe(e *eventsv1.Event) Event {
	at := Event{
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

// WriteText writes a table for people.
func WriteText(out io.Writer, palette terminal.Palette, found []Event, now time.Time) error {
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
