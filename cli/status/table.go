package status

import (
	"cmp"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/keyferry/keyferry/api/v1alpha1"
	"github.com/keyferry/keyferry/cli/terminal"
)

// none stands in a cell where there is nothing to tell.
const none = "-"

// WriteText writes for people: a table of the targets, one of their users, and why some are not
// ready.
func (r *Report) WriteText(w io.Writer, palette terminal.Palette, now time.Time) error {
	if len(r.Targets) == 0 {
		_, err := io.WriteString(w, "there are no TargetClusters, and no Pod uses one\n")
		return err
	}
	const ready, state = 1, 3 // columns
	targets := terminal.Table{
		Rows:  [][]string{{"TARGET", "READY", "REASON", "DELIVERY", "VERSION", "PODS", "REQUESTS", "NEXT END", "ENDPOINT"}},
		Paint: painter(palette, ready, string(metav1.ConditionTrue), string(metav1.ConditionFalse)),
	}
	users := terminal.Table{
		Rows:  [][]string{{"USER", "TARGET", "SERVICEACCOUNT", "STATE", "ENDS"}},
		Paint: painter(palette, state, StateReady, ""),
	}
	var problems []string
	for _, t := range r.Targets {
		targets.Rows = append(targets.Rows, t.row(now))
		if t.Ready != metav1.ConditionTrue && t.Message != "" {
			problems = append(problems, palette.Head(t.String())+": "+terminal.Plain(t.Message)+"\n")
		}
		for _, u := range t.Users {
			users.Rows = append(users.Rows, u.row(t.String(), now))
			if u.Message != "" && (u.State != v1alpha1.ReasonLocked || u.Message != t.Message) {
				problems = append(problems, palette.Head(u.String())+": "+terminal.Plain(u.Message)+"\n")
			}
		}
	}
	var text strings.Builder
	targets.AppendTo(&text)
	if len(users.Rows) > 1 {
		text.WriteByte('\n')
		users.AppendTo(&text)
	}
	if len(problems) > 0 {
		slices.Sort(problems) // a Pod may use several targets
		text.WriteString("\n" + strings.Join(slices.Compact(problems), ""))
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// painter colours the cells of a column: what is good, what is bad, and the rest as doubtful.
func painter(p terminal.Palette, column int, good, bad string) func(row, column int, text string) string {
	return func(row, at int, text string) string {
		switch {
		case row == 0:
			return p.Head(text)
		case at != column || text == none:
			return text
		case text == good:
			return p.Good(text)
		case text == bad:
			return p.Bad(text)
		}
		return p.Doubtful(text)
	}
}

// String is as people write it; of other kinds than the usual one with the kind.
func (t Target) String() string {
	name := t.Namespace + "/" + t.Name
	if t.Kind != KindTargetCluster {
		return t.Kind + " " + name
	}
	return name
}

func (u User) String() string { return u.Kind + " " + u.Namespace + "/" + u.Name }

func (t Target) row(now time.Time) []string {
	pods, requests := 0, 0
	var next *metav1.Time
	for _, u := range t.Users {
		if u.Kind == KindPod {
			pods++
			continue
		}
		requests++
		if u.Ends != nil && (next == nil || u.Ends.Before(next)) {
			next = u.Ends
		}
	}
	row := []string{t.String(), string(t.Ready), t.Reason, t.Delivery, t.ServerVersion, strconv.Itoa(pods), strconv.Itoa(requests), relative(next, now), t.Endpoint}
	if t.Kind == KindClusterProfile {
		row[1], row[2] = "", ""
	}
	return filled(row)
}

func (u User) row(target string, now time.Time) []string {
	ends := relative(u.Ends, now)
	switch {
	case u.Ends != nil && u.Renews != nil:
		ends += ", renewal due " + relative(u.Renews, now)
	case u.Kind == KindPod && u.Request == "" && u.State == StateReady:
		ends = "renewed in the Pod"
	}
	return filled([]string{u.String(), target, u.ServiceAccount, u.State, ends})
}

func filled(row []string) []string {
	for i := range row {
		row[i] = cmp.Or(row[i], none)
	}
	return row
}

// relative is a time as people say it.
func relative(t *metav1.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	if left := t.Sub(now); left > 0 {
		return "in " + duration.HumanDuration(left)
	}
	return duration.HumanDuration(now.Sub(t.Time)) + " ago"
}
