package targetinfo

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/cli/managed"
	"github.com/keyferry/keyferry/cli/terminal"
)

// none is shown for an empty cell.
const none = "-"

// WriteList writes a table for people.
func WriteList(out io.Writer, palette terminal.Palette, summaries []Summary) error {
	if len(summaries) == 0 {
		_, err := io.WriteString(out, "there are no TargetClusters: keyferry target add registers one\n")
		return err
	}
	const ready = 1 // column
	table := terminal.Table{
		Rows:  [][]string{{"TARGET", "READY", "REASON", "ACCESS", "PODS ARE", "MADE BY", "ENDPOINT"}},
		Paint: painter(palette, ready),
	}
	for _, s := range summaries {
		table.Rows = append(table.Rows, []string{
			s.Namespace + "/" + s.Name, string(s.Ready), cmp.Or(s.Reason, none), string(s.Access), s.Identity, s.madeBy(), cmp.Or(s.Endpoint, none),
		})
	}
	return write(out, table)
}

// madeBy is the value of the label that keyferry target add sets.
func (s *Summary) madeBy() string {
	if s.Managed {
		return managed.Value
	}
	return none
}

// WriteText writes the details for people.
func (d *Details) WriteText(out io.Writer, palette terminal.Palette) error {
	fields := terminal.Table{Paint: func(_, column int, text string) string {
		if column == 0 {
			return palette.Head(text)
		}
		return text
	}}
	for _, field := range [][]string{
		{"TargetCluster", d.Namespace + "/" + d.Name},
		{"Ready", strings.TrimSpace(string(d.Ready) + " " + d.Reason)},
		{"Endpoint", d.Endpoint},
		{"Delivery", d.Delivery},
		{"Version", d.ServerVersion},
		{"Cluster UID", d.ClusterUID},
		{"Access", string(d.Access)},
		{"Secret", d.Secret},
		{"Pods are", d.Identity},
		{"Made by", d.madeBy()},
		{"Granted to", strings.Join(d.Granted, ", ")},
	} {
		field[1] = cmp.Or(field[1], none)
		fields.Rows = append(fields.Rows, field)
	}
	conditions := terminal.Table{Rows: [][]string{{"CONDITION", "STATUS", "REASON", "MESSAGE"}}, Paint: painter(palette, 1)}
	for _, c := range d.Conditions {
		conditions.Rows = append(conditions.Rows, []string{c.Type, string(c.Status), c.Reason, cmp.Or(c.Message, none)})
	}
	users := terminal.Table{Rows: [][]string{{"USER", "SERVICEACCOUNT", "STATE"}}, Paint: painter(palette, -1)}
	for _, u := range d.Users {
		users.Rows = append(users.Rows, []string{fmt.Sprintf("%s %s/%s", u.Kind, u.Namespace, u.Name), u.ServiceAccount, u.State})
	}
	return write(out, fields, conditions, users)
}

// painter colours the head, and the statuses in a column.
func painter(p terminal.Palette, column int) func(row, at int, text string) string {
	return func(row, at int, text string) string {
		switch {
		case row == 0:
			return p.Head(text)
		case at != column:
			return text
		case text == string(metav1.ConditionTrue):
			return p.Good(text)
		case text == string(metav1.ConditionFalse):
			return p.Bad(text)
		}
		return p.Doubtful(text)
	}
}

// write writes tables that have more than a head, with an empty line between them.
func write(out io.Writer, tables ...terminal.Table) error {
	var text strings.Builder
	for _, table := range tables {
		if len(table.Rows) < 2 {
			continue
		}
		if text.Len() > 0 {
			text.WriteByte('\n')
		}
		table.AppendTo(&text)
	}
	_, err := io.WriteString(out, text.String())
	return err
}
