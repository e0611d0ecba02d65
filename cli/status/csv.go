package status

import (
	"encoding/csv"
	"io"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyferry/keyferry/cli/terminal"
)

// WriteCSV writes a line for each user of each target, and for each target without users (RFC
// 4180).
func (r *Report) WriteCSV(w io.Writer) error {
	lines := csv.NewWriter(w)
	rows := [][]string{{
		"targetKind", "targetNamespace", "target", "ready", "reason", "message", "endpoint", "delivery", "serverVersion",
		"userKind", "userNamespace", "user", "serviceAccount", "workload", "credentialRequest", "state", "stateMessage", "ends", "renews",
	}}
	for _, t := range r.Targets {
		of := []string{t.Kind, t.Namespace, t.Name, string(t.Ready), t.Reason, t.Message, t.Endpoint, t.Delivery, t.ServerVersion}
		users := t.Users
		if len(users) == 0 {
			users = []User{{}}
		}
		for _, u := range users {
			rows = append(rows, append(of[:len(of):len(of)],
				u.Kind, u.Namespace, u.Name, u.ServiceAccount, u.Workload, u.Request, u.State, u.Message, rfc3339(u.Ends), rfc3339(u.Renews)))
		}
	}
	for _, row := range rows {
		for i := range row {
			row[i] = cell(row[i])
		}
		if err := lines.Write(row); err != nil {
			return err
		}
	}
	lines.Flush()
	return lines.Error()
}

// cell marks as text what a spreadsheet would run as a formula: also after a space, and with the
// wide characters that some of them read as the narrow ones. Messages can contain what users wrote.
func cell(text string) string {
	text = terminal.Plain(text)
	if strings.IndexAny(strings.TrimSpace(text), "=+-@＝＋－＠") == 0 {
		return "'" + text
	}
	return text
}

func rfc3339(t *metav1.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
