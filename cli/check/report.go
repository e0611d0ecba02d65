package check

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/keyferry/keyferry/cli/terminal"
)

// Verdict is what became of one check, or of all.
type Verdict string

// The verdicts. Unknown is where it could not be found out, or nobody knows yet.
const (
	Fine    Verdict = "OK"
	Wrong   Verdict = "Wrong"
	Unknown Verdict = "Unknown"
)

// Finding is the answer to one question.
type Finding struct {
	Check   string  `json:"check"`
	Result  Verdict `json:"result"`
	Message string  `json:"message"`
	Remedy  string  `json:"remedy,omitempty"`
}

// Report is all that was found out about a Pod, or a workload that has none, in the order of the
// chain.
type Report struct {
	Subject           string    `json:"subject,omitempty"` // what was checked, if it is no Pod
	Pod               string    `json:"pod,omitempty"`
	Workload          string    `json:"workload,omitempty"` // KIND NAMESPACE/NAME, where it has no Pod
	TargetCluster     string    `json:"targetCluster,omitempty"`
	ClusterProfile    string    `json:"clusterProfile,omitempty"`
	CredentialRequest string    `json:"credentialRequest,omitempty"`
	Clusters          []string  `json:"clusters,omitempty"` // further TargetClusters
	Result            Verdict   `json:"result"`
	Checks            []Finding `json:"checks"`
}

func (r *Report) fine(check, format string, args ...any) {
	r.Checks = append(r.Checks, Finding{Check: check, Result: Fine, Message: fmt.Sprintf(format, args...)})
}

func (r *Report) wrong(check, remedy, format string, args ...any) {
	r.Checks = append(r.Checks, Finding{check, Wrong, fmt.Sprintf(format, args...), remedy})
}

func (r *Report) unknown(check, remedy, format string, args ...any) {
	r.Checks = append(r.Checks, Finding{check, Unknown, fmt.Sprintf(format, args...), remedy})
}

// sum is Wrong if anything is, else Unknown if anything is.
func (r *Report) sum() Verdict {
	sum := Fine
	for _, f := range r.Checks {
		if f.Result == Wrong {
			return Wrong
		}
		if f.Result == Unknown {
			sum = Unknown
		}
	}
	return sum
}

// WriteText writes for people: a line for each finding, and below it the remedy.
func (r *Report) WriteText(w io.Writer, palette terminal.Palette) error {
	var text strings.Builder
	text.WriteString(palette.Head(cmp.Or(r.Subject, r.Workload, "Pod "+r.Pod)))
	if r.TargetCluster != "" {
		text.WriteString(" → TargetCluster " + r.TargetCluster)
	}
	if r.ClusterProfile != "" {
		text.WriteString(" → ClusterProfile " + r.ClusterProfile)
	}
	if len(r.Clusters) > 0 {
		text.WriteString(" → contexts for TargetClusters " + strings.Join(r.Clusters, ", "))
	}
	text.WriteByte('\n')
	for _, f := range r.Checks {
		symbol := map[Verdict]string{Fine: palette.Good("✓"), Wrong: palette.Bad("✗"), Unknown: palette.Doubtful("?")}[f.Result]
		fmt.Fprintf(&text, "%s %-14s %s\n", symbol, f.Check, terminal.Plain(f.Message))
		if f.Remedy != "" {
			fmt.Fprintf(&text, "  %-14s → %s\n", "", terminal.Plain(f.Remedy))
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}
